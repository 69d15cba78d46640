//! `mixbit upload`: a model to the Hub.

use super::pack::note_left_out;
use crate::cli::args::Upload;
use crate::error::{Error, Result};
use crate::files::hub;
use crate::files::hub::{Repository, Settings};
use crate::jobs::opening::{Need, open_after};
use crate::jobs::write::{Parts, companions};
use crate::report::Console;
use crate::words::count;

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
    let mut parts = Parts::default();
    let source = open_after(&args.model, Need::Files, |source| {
        parts = companions::parts(source)?;
        Ok(())
    })?;
    console.notes(source.file_notes());
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
