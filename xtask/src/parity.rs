//! `cargo xtask parity`: mixbit against mlx-lm, on this machine. The comparisons are in `xtask/parity.py`.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{process, python, smollm2, workspace};

/// Runs the script in the virtual environment; `arguments` are handed on to it.
pub fn run(arguments: &[String]) -> Result<()> {
    let root = workspace::root();
    let script = root.join("xtask/parity.py");
    ensure!(script.exists(), "{} is missing", script.display());
    let python = python::venv()?;
    let mixbit = workspace::release()?;
    process::run(
        Command::new(python)
            .arg(script)
            .arg("--mixbit")
            .arg(root.join(mixbit))
            .arg("--smollm2")
            .arg(smollm2::ensure()?)
            .args(arguments)
            .current_dir(&root),
    )
}
