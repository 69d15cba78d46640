//! Where things lie in the workspace, and building mixbit.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

/// The workspace's root, as cargo says now, else as it was when xtask was compiled.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// What `cargo metadata` says of the workspace's own packages.
pub fn metadata() -> Result<serde_json::Value> {
    let arguments = ["metadata", "--format-version=1", "--no-deps"];
    let text = process::output(process::cargo().args(arguments).current_dir(root()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Cargo's target folder: relative to the root when it lies inside.
pub fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    let folder = Path::new(folder);
    Ok(folder.strip_prefix(root()).unwrap_or(folder).to_path_buf())
}

/// Sets up, builds the release mixbit, and returns its path (see [`target`]).
pub fn release() -> Result<PathBuf> {
    crate::setup()?;
    process::run(process::cargo().args(["build", "--release", "--package", "mixbit"]).current_dir(root()))?;
    Ok(target()?.join("release/mixbit"))
}
