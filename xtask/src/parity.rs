//! `cargo xtask parity`: mixbit against transformers and mlx-lm, on this machine. The comparisons are in
//! `xtask/parity_text.py` (token ids, prompts, stop tokens), `xtask/parity.py` (logits, texts, sensitivities) and
//! `xtask/parity_architectures.py` (a small random model of every model type).

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use xtask::build::{Profile, build_mixbit};
use xtask::{process, python, smollm2, workspace};

/// Compares tokenization, prompts, golden models and trained ones; `arguments` go to `xtask/parity.py`.
pub fn models(profile: Profile, arguments: &[String]) -> Result<()> {
    let mixbit = build_mixbit(profile)?;
    let smollm2 = smollm2::ensure()?;
    process::run(script("parity_text.py", &mixbit)?.arg("--models").arg(&smollm2))?;
    process::run(script("parity.py", &mixbit)?.arg("--smollm2").arg(&smollm2).args(arguments))
}

/// Compares random models of every model type, or of those in `only`.
pub fn architectures(profile: Profile, only: &[String]) -> Result<()> {
    let mut command = script("parity_architectures.py", &build_mixbit(profile)?)?;
    for model_type in only {
        command.args(["--only", model_type]);
    }
    process::run(&mut command)
}

/// Returns the command that runs a script of `xtask/` in the virtual environment.
fn script(name: &str, mixbit: &Path) -> Result<Command> {
    let root = workspace::root();
    let script = root.join("xtask").join(name);
    ensure!(script.exists(), "{} is missing", script.display());
    let mut command = Command::new(python::reference()?);
    command.arg(script).arg("--mixbit").arg(root.join(mixbit)).current_dir(&root);
    Ok(command)
}
