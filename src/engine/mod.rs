//! The engine: the only place that uses MLX.
//!
//! MLX's state is per thread and its arrays cannot be shared, so one thread owns an [`Engine`](runtime::Engine) and all
//! arrays made with it. On the CPU everything is computed in float32, whatever the file's dtype: half-precision
//! arithmetic is thirty times slower there. On Metal the checkpoint's dtype and the quantized kernels are used as they
//! are.
pub mod activations;
pub mod array;
pub mod cache;
pub mod decoder;
pub mod fused;
pub mod generate;
pub mod learn;
pub mod measure;
pub mod memory;
#[cfg(target_os = "linux")]
mod native;
#[cfg(test)]
mod native_tests;
pub mod oracle;
pub mod passes;
pub mod positions;
mod recompute;
pub mod runtime;
pub mod streams;
