//! Helpers that the developer tasks (`cargo xtask`) and the benches (`bench/`) share: the workspace's folders, building
//! the engine and mixbit, Python with the reference implementation, running other programs.

pub mod build;
pub mod failure;
pub mod gemma3;
pub mod packaged;
pub mod process;
pub mod python;
#[cfg(target_os = "linux")]
mod setup;
pub mod smollm2;
pub mod workspace;
