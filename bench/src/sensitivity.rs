//! `cargo xtask bench sensitivity`: how well sensitivities predict, on trained models. The measuring is in
//! `benches/sensitivity.rs`, which has the library at hand.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use xtask::{process, workspace};

use crate::trained::Folders;

/// What to measure on.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    folders: Folders,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    for trained in options.folders.all()? {
        let mut command = Command::new("cargo");
        command.current_dir(workspace::root());
        command.args(["bench", "--quiet", "--bench", "sensitivity", "--", "--model"]).arg(&trained.model);
        if options.folders.texts.is_some() {
            command.arg("--calibration").arg(&trained.calibration).arg("--data").arg(&trained.data);
        } else {
            command.args(["--samples", "32", "--sequence-length", "128"]);
        }
        process::run(&mut command)?;
    }
    Ok(())
}
