//! Tests of the functions that native/ puts in MLX's place on Linux.
pub mod exponentials;
pub mod fast;
#[cfg(target_os = "linux")]
pub mod fused;
#[cfg(target_os = "linux")]
pub mod in_force;
#[cfg(target_os = "linux")]
pub mod one_query;
#[cfg(target_os = "linux")]
pub mod products;

/// Names of the kernels that are compiled, each for a kind of processor.
#[cfg(target_os = "linux")]
const KERNELS: [&std::ffi::CStr; 4] = [c"plain", c"avx2", c"avx512", c"vnni"];
