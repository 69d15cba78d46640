//! The engine: the only place that uses MLX.
//!
//! MLX's state is per thread and its arrays are not to be shared, so one thread owns an [`Engine`] and all that is made
//! with it. On the CPU everything is computed in float32, whatever the file's dtype: half-precision arithmetic is thirty
//! times slower there. On Metal the checkpoint's dtype and the quantized kernels are used as they are.

mod analysis;
mod array;
mod attention;
mod block;
mod cache;
mod caches;
mod collector;
mod compare;
mod correction;
mod decoder;
mod experts;
#[cfg(all(test, target_os = "linux"))]
mod exponentials;
mod factors;
mod forward;
mod generate;
mod learning;
mod linear;
mod load;
mod model;
mod moments;
pub mod oracle;
mod replay;
mod score;
mod session;
#[cfg(all(test, target_os = "linux"))]
mod stand_ins;
mod states;
mod store;
mod streams;
mod student;
mod swaps;
mod way_back;

pub use analysis::{AnalysisSettings, analyze};
pub use caches::{CacheFigures, CacheSettings, ContextWindow};
pub use collector::{Extent, Moment, Moments};
pub use compare::Comparison;
pub use correction::{CorrectionSettings, measure_corrections};
pub use decoder::DraftFigures;
pub use factors::{FactorSettings, measure_factors};
pub use forward::{FinalStates, run_forward};
pub use generate::{Finish, Generation, PREFILL_STEP, Settings, Timings, generate};
pub use load::{Rounding, Tuned};
pub use model::Model;
pub use moments::{MomentSettings, input_moments, input_moments_where, input_of};
pub use session::{Draft, Session};
pub use student::{Student, Target};
pub use swaps::{Alternatives, Change, SwapSettings, swap_changes};

use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::OnceLock;

use mlx_rs::{Device, DeviceType};

use self::streams::Streams;
use crate::checkpoint::Dtype;
use crate::error::{Error, Result};

/// The loaded library and where it computes. Not to be sent to another thread.
#[derive(Debug)]
pub struct Engine {
    gpu: bool,
    streams: Streams,
    one_thread: PhantomData<*const ()>,
}

impl Engine {
    /// Loads MLX. On Linux that is the CPU build that `cargo xtask setup` has put together.
    pub fn start() -> Result<Self> {
        #[cfg(target_os = "linux")]
        mlx_sys::mixbit_engine_load().map_err(|message| match message.rsplit_once("\nhint: ") {
            Some((what, hint)) => Error::engine(what).hint(hint),
            None => Error::engine(message),
        })?;
        give_back();
        keep_pages(None);
        VERSION.get_or_init(mlx_version);
        let gpu = matches!(Device::try_default()?.get_type()?, DeviceType::Gpu);
        Ok(Self { gpu, streams: Streams::available(gpu), one_thread: PhantomData })
    }

    /// Computes up to `count` sequences side by side on the CPU, whatever its processors. The results are the same.
    #[must_use]
    pub fn side_by_side(self, count: usize) -> Self {
        Self { streams: if self.gpu { self.streams } else { Streams::new(count) }, ..self }
    }

    /// The dtype to compute a model of `stored` dtype in.
    pub fn compute_dtype(&self, stored: Dtype) -> Dtype {
        match stored {
            Dtype::F16 | Dtype::BF16 if self.gpu => stored,
            _ => Dtype::F32,
        }
    }
}

/// The version of MLX, once an engine was started.
static VERSION: OnceLock<String> = OnceLock::new();

/// Version of the MLX that this process computes with; `None` as long as it has not computed anything.
pub fn version() -> Option<&'static str> {
    VERSION.get().map(String::as_str)
}

fn mlx_version() -> String {
    // SAFETY: a new string, filled by MLX, copied and freed before this returns.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&raw mut text);
        let data = mlx_sys::mlx_string_data(text);
        let known = status == 0 && !data.is_null();
        let version = known.then(|| CStr::from_ptr(data).to_string_lossy().into_owned());
        mlx_sys::mlx_string_free(text);
        version.unwrap_or_else(|| "of an unknown version".to_owned())
    }
}

/// Float32 operations a second of a product [rows, inner] x [inner, columns], tried for two fifths of a second, or for up to two
/// while other programs leave no time for a few tries.
pub fn matmul_rate(_: &Engine, [rows, inner, columns]: [usize; 3]) -> Result<f64> {
    let matrix = |rows: usize, columns: usize| array::from_vec(vec![0.5; rows * columns], &[rows, columns]);
    let (a, b) = (matrix(rows, inner), matrix(inner, columns));
    let flops = 2.0 * (rows * inner * columns) as f64;
    let started = std::time::Instant::now();
    let (mut best, mut tries) = (f64::INFINITY, 0);
    while started.elapsed().as_secs_f64() < if tries < 6 { 2.0 } else { 0.4 } {
        tries += 1;
        let start = std::time::Instant::now();
        mlx_rs::transforms::eval([&a.matmul(&b)?])?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(flops / best)
}

/// From now on memory that is free stays with the process for a while, because the next temporary wants the pages again:
/// clearing them anew took about a tenth of analyze's time on a model of a billion parameters. It is wanted again within a
/// pass through a block, a time that grows with the `parameters` of the model; without them it stays a minute.
fn keep_pages(parameters: Option<u64>) {
    #[cfg(target_os = "linux")]
    {
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        const LONGEST: u64 = 60_000;
        // 0.05 s for 5 M, 1.3 s for 135 M, where 0.1 s takes 9 % longer; more only holds memory.
        let milliseconds = parameters.map_or(LONGEST, |count| (count / 100_000).min(LONGEST));
        // SAFETY: sets a number.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds as libc::c_long) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parameters;
}

/// Gives memory that is free back to the system, between two pieces of work. Tokenizing leaves much.
pub fn give_back() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the allocator's own function for it; each thread has memory of its own.
        let collect = || unsafe { libmimalloc_sys::mi_collect(true) };
        rayon::broadcast(|_| collect());
        collect();
    }
}

impl From<mlx_rs::error::Exception> for Error {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        Self::engine(exception.what())
    }
}

/// Peak resident memory of this process in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        crate::system::proc_bytes("/proc/self/status", "VmHWM")
    }
    #[cfg(not(target_os = "linux"))]
    {
        mlx_rs::memory::peak_memory().ok().map(|bytes| bytes as u64)
    }
}
