//! `mixbit upload`: a model to the Hub.

use super::pack::note_left_out;
use crate::checkpoint::SourceModel;
use crate::cli::Upload;
use crate::error::{Error, Result};
use crate::export;
use crate::hub::{self, Repository, Settings};
use crate::plural::count;
use crate::report::Console;

/// Runs the command.
pub fn run(args: &Upload, console: &Console) -> Result<()> {
    let name = match &args.revision {
        Some(revision) => format!("{}@{revision}", args.name),
        None => args.name.clone(),
    };
    let repository = Repository::parse(&name).ok_or_else(|| {
        Error::usage(format!("`{name}` is no name for a model on the Hub"))
            .hint("names are organisation/name, of letters, digits, `-`, `_` and `.`")
    })?;
    let source = SourceModel::open(&args.model)?;
    let parts = export::parts(&source)?;
    source.verify()?;
    source.files().verify()?;
    note_left_out(&parts, console);
    let settings = Settings::from_environment()?;
    let done = hub::upload(&settings, &repository, args.private, source.files(), &parts.names, console)?;
    console.done(&format!(
        "{}, {} of them sent as large ones: {}",
        count(done.files, "file"),
        done.sent,
        done.url
    ));
    Ok(())
}
