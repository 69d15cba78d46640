//! `cargo xtask bench sensitivity`: how well sensitivities predict, on trained models. The measuring is in
//! `benches/sensitivity.rs`, which has the library at hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{process, workspace};

/// What to measure on.
#[derive(Args)]
pub struct Options {
    /// A folder of trained models; the bundled one is always measured
    #[arg(long)]
    models: Option<PathBuf>,
    /// A folder of texts NAME-calibration.txt and NAME-eval.txt; a model takes those whose NAME begins its own, then
    /// tinystories; without it the built-in text serves
    #[arg(long)]
    texts: Option<PathBuf>,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let mut models = vec![workspace::root().join("fixtures/models/mobilellm-docs-1m")];
    if let Some(folder) = &options.models {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        found.retain(|path| {
            path.join("config.json").is_file() && !models.iter().any(|m| m.file_name() == path.file_name())
        });
        found.sort();
        models.extend(found);
    }
    for model in models {
        let mut command = Command::new("cargo");
        command.current_dir(workspace::root()).args([
            "bench",
            "--quiet",
            "--bench",
            "sensitivity",
            "--",
            "--model",
        ]);
        command.arg(&model);
        if let Some(texts) = &options.texts {
            let name = if model.to_string_lossy().contains("docs") { "docs" } else { "tinystories" };
            command.arg("--calibration").arg(text(texts, name, "calibration"));
            command.arg("--data").arg(text(texts, name, "eval"));
        } else {
            command.args(["--samples", "32", "--sequence-length", "128"]);
        }
        process::run(&mut command)?;
    }
    Ok(())
}

fn text(folder: &Path, name: &str, part: &str) -> PathBuf {
    folder.join(format!("{name}-{part}.txt"))
}
