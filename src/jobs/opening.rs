//! Opening of the models that jobs read: in one place, so that no job computes with weights that nobody verified.

use std::path::Path;

use crate::error::Result;
use crate::models::source::SourceModel;

/// Part of a model that a job relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Names, types and shapes; no value is read.
    Headers,
    /// Values, to compute with, verified by [`SourceModel::verify`].
    Weights,
    /// All files, to make another model of them: the checksums of a pack and of the Hub's cache are verified too.
    Files,
}

/// Opens the model at `path` as far as `need` says.
pub fn open(path: &Path, need: Need) -> Result<SourceModel> {
    open_after(path, need, |_| Ok(()))
}

/// Treatment of layers that arrive quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantized {
    /// They stay as they are.
    Kept,
    /// They become float, with the values that their codes stand for.
    Decoded,
}

/// Opens the model at `path` as far as `need` says, after `checks` that take no time and need headers alone.
pub fn open_after(
    path: &Path,
    need: Need,
    checks: impl FnOnce(&SourceModel) -> Result<()>,
) -> Result<SourceModel> {
    open_as(path, need, Quantized::Kept, checks)
}

/// Opens the model at `path`, as [`open_after`], with its `quantized` layers kept or decoded.
pub fn open_as(
    path: &Path,
    need: Need,
    quantized: Quantized,
    checks: impl FnOnce(&SourceModel) -> Result<()>,
) -> Result<SourceModel> {
    let mut source = SourceModel::open_headers(path)?;
    if quantized == Quantized::Decoded {
        source = source.decoded()?;
    }
    checks(&source)?;
    if need == Need::Files {
        source.files().verify()?;
    }
    if need != Need::Headers {
        source.verify()?;
    }
    Ok(source)
}
