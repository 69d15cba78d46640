//! Building the engine, mixbit and the benches.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::{process, workspace};

/// Makes the engine ready.
#[cfg(target_os = "linux")]
pub fn set_up_engine() -> Result<()> {
    crate::setup::run()
}

/// Makes the engine ready: mlx-sys builds MLX itself here.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the Linux one can fail")]
pub fn set_up_engine() -> Result<()> {
    eprintln!("setup: nothing to do, mlx-sys builds MLX itself");
    Ok(())
}

/// A way to compile mixbit.
#[derive(Clone, Copy, ValueEnum)]
pub enum Profile {
    /// As the tests do
    Dev,
    /// As it is released
    Release,
}

/// Sets the engine up, builds mixbit, and returns its path as [`workspace::target`] gives it.
pub fn build_mixbit(profile: Profile) -> Result<PathBuf> {
    set_up_engine()?;
    let (arguments, path) = match profile {
        Profile::Dev => (["--workspace", "--bin", "mixbit"], "debug/mixbit"),
        Profile::Release => (["--release", "--package", "mixbit"], "release/mixbit"),
    };
    build(&arguments)?;
    Ok(workspace::target()?.join(path))
}

/// Sets the engine up, builds the benches, and returns the path of their program.
pub fn build_bench() -> Result<PathBuf> {
    set_up_engine()?;
    build(&["--workspace", "--bin", "bench"])?;
    Ok(workspace::root().join(workspace::target()?).join("debug/bench"))
}

/// Runs `cargo build`. With `--workspace` dependencies get the features that the tests compile them with, so that they are not
/// compiled once more.
fn build(arguments: &[&str]) -> Result<()> {
    process::run(process::cargo().arg("build").args(arguments).current_dir(workspace::root()))
}
