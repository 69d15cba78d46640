//! Folders of the workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

/// Returns the workspace's root: the folder above the running package, as cargo says, else above xtask as compiled.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Returns what `cargo metadata` says of the workspace's own packages.
pub fn metadata() -> Result<serde_json::Value> {
    let arguments = ["metadata", "--format-version=1", "--no-deps"];
    let text = process::output(process::cargo().args(arguments).current_dir(root()))?;
    Ok(serde_json::from_str(&text)?)
}

/// Returns cargo's target folder, relative to the root when it lies inside.
pub fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    let folder = Path::new(folder);
    Ok(folder.strip_prefix(root()).unwrap_or(folder).to_path_buf())
}
