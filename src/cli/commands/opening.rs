//! Opening the model that a command makes another of.

use crate::cli::args::Output;
use crate::error::Result;
use crate::files::output_folder::{check_destination, check_writable, leftover_notes};
use crate::jobs::opening::{Need, open_after};
use crate::jobs::write::companions;
use crate::models::source::SourceModel;
use crate::report::Console;
use std::path::Path;

/// Opens the model at `path`, all of which goes into `output`, after `checks` of its headers, of its tokenizer and of the
/// destination.
pub fn open_to_write(
    path: &Path,
    output: &Output,
    console: &Console,
    checks: impl FnOnce(&SourceModel) -> Result<()>,
) -> Result<SourceModel> {
    let source = open_after(path, Need::Files, |source| {
        checks(source)?;
        console.notes(&companions::check_tokenizer(source)?);
        check_destination(source.dir(), &output.mlx_path, output.overwrite)?;
        check_writable(&output.mlx_path)?;
        console.notes(&leftover_notes(&output.mlx_path));
        Ok(())
    })?;
    console.notes(&source.spec().notes);
    Ok(source)
}
