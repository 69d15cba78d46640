//! Building the engine, mixbit and the benches.

use std::path::PathBuf;

use anyhow::Result;

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

/// Sets the engine up, builds the release mixbit, and returns its path as [`workspace::target`] gives it.
pub fn build_mixbit() -> Result<PathBuf> {
    set_up_engine()?;
    build(&["--release", "--package", "mixbit"])?;
    Ok(workspace::target()?.join("release/mixbit"))
}

/// Sets the engine up, builds the benches, and returns the path of their program.
pub fn build_bench() -> Result<PathBuf> {
    set_up_engine()?;
    // Of the whole workspace, so that dependencies have the features that the tests compile them with.
    build(&["--workspace", "--bin", "bench"])?;
    Ok(workspace::root().join(workspace::target()?).join("debug/bench"))
}

fn build(arguments: &[&str]) -> Result<()> {
    process::run(process::cargo().arg("build").args(arguments).current_dir(workspace::root()))
}
