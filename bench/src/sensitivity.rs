//! `cargo xtask bench sensitivity`: predictions of sensitivities beside measured KL divergences, on trained models.
//! `benches/sensitivity.rs` measures, in a release build of the library.

use anyhow::Result;
use clap::Args;
use xtask::{process, workspace};

use crate::trained::Folders;

/// Options of the bench.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    folders: Folders,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<()> {
    for trained in options.folders.all()? {
        let mut command = process::cargo();
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
