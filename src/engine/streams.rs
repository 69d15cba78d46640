//! Sequences computed in parallel.
//!
//! MLX's CPU backend runs most operations on the one thread of their stream. Several sequences, each built on a stream
//! of its own and all evaluated at once, keep several processors busy. Results do not depend on the stream.

use mlx_rs::transforms::eval;
use mlx_rs::{Array, Device, Stream};
use std::cell::RefCell;
use std::thread::available_parallelism;

use super::runtime::Engine;
use crate::error::Result;
use crate::models::spec::{BlockSpec, DecoderSpec, MlpSpec};

/// Most bytes that the sequences computed in parallel may work on. A single sequence of a model of a billion parameters
/// needs more; its operations are large enough for the threads inside a product to keep the processors busy.
const BYTES_IN_PARALLEL: usize = 192 << 20;

thread_local! {
    /// Streams made in addition to the default one: MLX keeps a stream's thread until the process ends.
    static EXTRA_STREAMS: RefCell<Vec<Stream>> = const { RefCell::new(Vec::new()) };
}

/// Number of sequences computed in parallel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams(usize);

impl Streams {
    /// Returns `count` streams, at least one.
    pub(crate) fn new(count: usize) -> Self {
        Self(count.max(1))
    }

    /// Returns one stream per processor, and one on a GPU.
    pub(crate) fn available(gpu: bool) -> Self {
        Self::new(if gpu { 1 } else { available_parallelism().map_or(1, usize::from) })
    }

    /// Returns these streams, limited to `most`.
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self::new(self.0.min(most))
    }

    /// Returns the number of streams.
    pub(crate) fn count(self) -> usize {
        self.0
    }

    /// Runs `build` with its operations on stream number `index`.
    pub(crate) fn on<T>(self, index: usize, build: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(extra) = (index % self.0).checked_sub(1) else { return build() };
        let _restored = DefaultStream::change(&EXTRA_STREAMS.with_borrow_mut(|streams| {
            while streams.len() <= extra {
                streams.push(Stream::new_with_device(&Device::cpu()));
            }
            streams[extra].clone()
        }));
        build()
    }

    /// Evaluates `outputs`, which were built on the first `used` streams.
    pub(crate) fn eval<'a>(self, used: usize, outputs: impl IntoIterator<Item = &'a Array>) -> Result<()> {
        expect_callers(used.min(self.0));
        let result = eval(outputs);
        expect_callers(1);
        Ok(result?)
    }
}

/// Tells mixbit's part of the CPU build how many streams are about to compute. With as many as there are processors,
/// each computes its products on one thread.
fn expect_callers(streams: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: sets a number.
    unsafe {
        mlx_sys::mixbit_expect_callers(streams as i32);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = streams;
}

/// Guard that restores the thread's default stream when dropped. MLX's own default is set, not the one that mlx-rs
/// keeps on top of it: differentiation asks MLX.
struct DefaultStream(Stream);

impl DefaultStream {
    fn change(stream: &Stream) -> Self {
        let previous = Self(Stream::new());
        // SAFETY: a valid stream of this thread.
        unsafe { mlx_sys::mlx_set_default_stream(stream.as_ptr()) };
        previous
    }
}

impl Drop for DefaultStream {
    fn drop(&mut self) {
        // SAFETY: a valid stream of this thread.
        unsafe { mlx_sys::mlx_set_default_stream(self.0.as_ptr()) };
    }
}

impl Engine {
    /// Returns the streams for `sequences` that go forward and backward through a block, each with the gradients of its
    /// weights.
    pub(crate) fn streams_for(&self, spec: &DecoderSpec, sequences: &[Vec<u32>]) -> Streams {
        let tokens = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let linears = |block: &BlockSpec| block.linears().map(|linear| linear.weights()).sum::<usize>();
        let weights = spec.blocks.iter().map(linears).max().unwrap_or(0);
        let used = |mlp: &MlpSpec| mlp.inner_size() * mlp.experts.map_or(1, |experts| experts.per_token);
        let used = spec.mlps().map(used).max().unwrap_or(0);
        // The factors are about what MLX holds at one time.
        let positions = 8 * tokens * (spec.hidden_size + used);
        let heads = spec.attentions().map(|attention| attention.heads).max().unwrap_or(0);
        let scores = 5 * heads * tokens * tokens;
        let bytes = (weights + positions + scores) * size_of::<f32>();
        self.streams.at_most(BYTES_IN_PARALLEL / bytes.max(1))
    }
}
