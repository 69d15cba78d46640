//! The folder that a job writes a model to.

use std::path::{Path, PathBuf};

use super::producers::Container;
use crate::error::{Error, Result};
use crate::files::output_file::{Claim, Existing};
use crate::files::output_folder::{check_destination, check_writable, claim_folder};
use crate::jobs::opening::Quantized;
use crate::models::source::SourceModel;
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
    /// Fate of tensors beside the decoder.
    pub towers: TowerFate,
}

/// Fate of the tensors beside the decoder of a model that has towers for images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TowerFate {
    /// They are left out, as mlx-lm does.
    #[default]
    Dropped,
    /// They are written as they are.
    Written,
}

impl Output {
    /// Describes a new folder at `path`, with safetensors files of at most 5 GB.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let container = Container::Safetensors { max_shard_size: 5_000_000_000 };
        Self { path: path.into(), overwrite: false, container, towers: TowerFate::default() }
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

    /// Returns notes for the user on `source`, whose quantized layers stay or are decoded, with those on the tensors that
    /// this output does or does not have.
    ///
    /// # Errors
    /// When tensors beside the decoder are asked for and there are none.
    pub(crate) fn notes(&self, source: &SourceModel, quantized: Quantized) -> Result<Vec<String>> {
        let towers = source.towers();
        let mut notes = match quantized {
            Quantized::Kept => source.spec().notes.clone(),
            Quantized::Decoded => source.notes_where_decoded(),
        };
        let unread = towers.notes();
        notes.retain(|note| !unread.contains(note));
        if self.towers == TowerFate::Written {
            if towers.is_empty() {
                let message = "has no tensors beside the text model that could be kept";
                return Err(Error::file(source.dir(), message).hint(
                    "leave setting `keep_towers` out, or start from a checkpoint with its vision tower",
                ));
            }
            notes.extend(towers.notes_where_written());
        } else {
            notes.extend(towers.notes_where_dropped());
        }
        Ok(notes)
    }

    /// Fails where the model in `source` cannot be written here, and keeps other runs from writing here until the claim
    /// is dropped.
    pub fn claim(&self, source: &Path, progress: &dyn Progress) -> Result<Claim> {
        self.check(source)?;
        let (claim, notes) = claim_folder(&self.path)?;
        progress.notes(&notes);
        Ok(claim)
    }
}

/// A model that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Sentences about tensors with values that are not finite, one per tensor, and one on what they mean.
    pub warnings: Vec<String>,
}
