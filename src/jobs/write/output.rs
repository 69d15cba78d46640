//! The folder that a job writes a model to.

use std::path::{Path, PathBuf};

use super::producers::Container;
use crate::error::Result;
use crate::files::output_file::{Claim, Existing};
use crate::files::output_folder::{check_destination, check_writable, leftover_notes};
use crate::progress::Progress;

/// Folder that a model is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Path of the folder.
    pub path: PathBuf,
    /// Replaces a model of mixbit's at the path.
    pub overwrite: bool,
    /// Format of the weight files.
    pub container: Container,
}

impl Output {
    /// Describes a new folder at `path`, with safetensors files of at most 5 GB.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let container = Container::Safetensors { max_shard_size: 5_000_000_000 };
        Self { path: path.into(), overwrite: false, container }
    }

    /// Returns the treatment of what is there already.
    pub(crate) const fn existing(&self) -> Existing {
        Existing::replaced_if(self.overwrite)
    }

    /// Fails where the model in `source` cannot be written here.
    pub fn check(&self, source: &Path) -> Result<()> {
        check_destination(source, &self.path, self.existing())?;
        check_writable(&self.path)
    }

    /// Fails where the model in `source` cannot be written here, and keeps other runs from writing here until the claim
    /// is dropped.
    pub fn claim(&self, source: &Path, progress: &dyn Progress) -> Result<Claim> {
        self.check(source)?;
        let claim = Claim::new(&self.path)?;
        progress.notes(&leftover_notes(&self.path));
        Ok(claim)
    }
}

/// A model that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Sentences about tensors with values that are not finite, one per tensor.
    pub warnings: Vec<String>,
}
