//! `cargo xtask parity`: mixbit against transformers and mlx-lm, on this machine. The comparisons are in
//! `xtask/parity_text.py` (token ids, prompts, stop tokens) and `xtask/parity.py` (logits, texts, sensitivities).

use std::process::Command;

use anyhow::{Result, ensure};

use xtask::build::{Profile, build_mixbit};
use xtask::{process, python, smollm2, workspace};

/// Runs both scripts in the virtual environment; `arguments` go to the second.
pub fn run(profile: Profile, arguments: &[String]) -> Result<()> {
    let root = workspace::root();
    let python = python::reference()?;
    let mixbit = root.join(build_mixbit(profile)?);
    let smollm2 = smollm2::ensure()?;
    let script = |name: &str| {
        let script = root.join("xtask").join(name);
        ensure!(script.exists(), "{} is missing", script.display());
        let mut command = Command::new(&python);
        command.arg(script).arg("--mixbit").arg(&mixbit).current_dir(&root);
        Ok(command)
    };
    process::run(script("parity_text.py")?.arg("--models").arg(&smollm2))?;
    process::run(script("parity.py")?.arg("--smollm2").arg(&smollm2).args(arguments))
}
