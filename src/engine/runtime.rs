//! The engine itself: one thread, its device, its streams, and the rate that it multiplies at.

use mlx_rs::{Device, DeviceType};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::memory::{give_back, keep_pages};
use super::streams::Streams;
use crate::error::{Error, Result};
use crate::numerics::dtype::Dtype;

/// MLX, loaded, and the device and streams that it computes on. Cannot be sent to another thread.
#[derive(Debug)]
pub struct Engine {
    pub(crate) gpu: bool,
    pub(crate) streams: Streams,
    one_thread: PhantomData<*const ()>,
}

impl Engine {
    /// Loads MLX. On Linux this is the CPU build that `cargo xtask setup` put together.
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

    /// Sets how many sequences are computed in parallel on the CPU, whatever its processors. Results do not depend on
    /// it.
    #[must_use]
    pub fn side_by_side(self, count: usize) -> Self {
        Self { streams: if self.gpu { self.streams } else { Streams::new(count) }, ..self }
    }

    /// Returns the dtype to compute in for a model of dtype `stored`.
    pub fn compute_dtype(&self, stored: Dtype) -> Dtype {
        match stored {
            Dtype::F16 | Dtype::BF16 if self.gpu => stored,
            _ => Dtype::F32,
        }
    }
}

/// Version of MLX, set when an engine is first started.
static VERSION: OnceLock<String> = OnceLock::new();

/// Returns the version of the MLX that this process computes with; `None` before an engine was started.
pub fn version() -> Option<&'static str> {
    VERSION.get().map(String::as_str)
}

fn mlx_version() -> String {
    // SAFETY: a new string, filled by MLX, copied and freed before this returns.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&raw mut text);
        let data = mlx_sys::mlx_string_data(text);
        let is_filled = status == 0 && !data.is_null();
        let version = is_filled.then(|| CStr::from_ptr(data).to_string_lossy().into_owned());
        mlx_sys::mlx_string_free(text);
        version.unwrap_or_else(|| "of an unknown version".to_owned())
    }
}

/// Measures the float32 operations per second of a product [rows, inner] x [inner, columns]. Tries for two fifths of a
/// second, or for up to two seconds while other programs leave no time for a few tries.
pub fn matmul_rate(_: &Engine, [rows, inner, columns]: [usize; 3]) -> Result<f64> {
    let matrix =
        |rows: usize, columns: usize| super::array::from_vec(vec![0.5; rows * columns], &[rows, columns]);
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

impl From<mlx_rs::error::Exception> for Error {
    fn from(exception: mlx_rs::error::Exception) -> Self {
        Self::engine(exception.what())
    }
}
