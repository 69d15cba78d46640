//! `cargo xtask bench`: builds the workspace's `bench` and becomes it, so signals and the exit code are its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::build;

/// Runs the benches with these arguments; returns only if they cannot be started.
pub fn run(arguments: &[OsString]) -> Result<()> {
    let bench = build::build_bench()?;
    Err(Command::new(&bench).args(arguments).exec())
        .with_context(|| format!("cannot start {}", bench.display()))
}
