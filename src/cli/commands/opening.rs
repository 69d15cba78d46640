//! Opening of the model that a command makes another model of.

use std::path::Path;

use crate::error::Result;
use crate::jobs::opening::{Need, Quantized, open_after};
use crate::jobs::write::{Output, companions};
use crate::models::source::SourceModel;
use crate::report::Console;

/// Opens the model at `path`, whose quantized layers stay or are decoded, with all its files, after `checks` of its headers,
/// of its tokenizer and of the `output`.
pub fn open_to_write(
    path: &Path,
    output: &Output,
    quantized: Quantized,
    console: &Console,
    checks: impl FnOnce(&SourceModel) -> Result<()>,
) -> Result<SourceModel> {
    let source = open_after(path, Need::Files, |source| {
        checks(source)?;
        companions::check_tokenizer(source)?;
        output.check(source.dir())
    })?;
    console.notes(&output.notes(&source, quantized)?);
    Ok(source)
}
