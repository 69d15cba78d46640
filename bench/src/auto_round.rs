//! AutoRound: its PyPI package in an environment of its own, which PyTorch makes gigabytes large.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use xtask::python::Environment;
use xtask::workspace;

const AUTO_ROUND: Environment =
    Environment { folder: ".venv-auto-round", requirements: "bench/peers/requirements-auto-round.txt" };

/// Returns `python`, or without one that of `.venv-auto-round/`, installed first if its pins have changed.
pub fn python(python: Option<&Path>) -> Result<PathBuf> {
    if let Some(python) = python {
        return Ok(python.to_owned());
    }
    if !AUTO_ROUND.is_current()? {
        AUTO_ROUND.create()?;
        AUTO_ROUND.install(&[])?;
        AUTO_ROUND.mark_current()?;
    }
    Ok(AUTO_ROUND.python())
}

/// Returns a command that quantizes with the AutoRound of `python` and asks nothing of the Hub.
pub fn script(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(workspace::root().join("bench/peers/bench_auto_round.py")).env("HF_HUB_OFFLINE", "1");
    command
}
