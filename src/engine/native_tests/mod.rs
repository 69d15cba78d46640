//! Tests of the functions that native/ puts in MLX's place on Linux.
pub mod exponentials;
pub mod fast;
#[cfg(target_os = "linux")]
pub mod fused;
#[cfg(target_os = "linux")]
pub mod in_force;
#[cfg(target_os = "linux")]
mod kernels;
#[cfg(target_os = "linux")]
pub mod one_query;
#[cfg(target_os = "linux")]
pub mod products;
