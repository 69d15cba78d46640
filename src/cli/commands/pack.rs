//! `mixbit pack`: a model folder in, one file out.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::cli::args::Pack;
use crate::error::{Error, Result};
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::files::write_pack::write_pack;
use crate::jobs::opening::{Need, open_after};
use crate::jobs::write::{Parts, companions};
use crate::models::source::SourceModel;
use crate::report::Console;
use crate::words::{bytes, count};

/// Runs the command.
pub fn run(args: &Pack, console: &Console) -> Result<()> {
    let mut parts = Parts::default();
    let source = open_after(&args.model, Need::Files, |source| {
        if source.files().pack().is_some() {
            return Err(Error::file(source.dir(), "is a pack already").hint("copy the file"));
        }
        parts = companions::parts(source)?;
        check_output(source, &parts, &args.out)?;
        output_file::check(&args.out, Existing::replaced_if(args.overwrite))
    })?;
    console.notes(source.file_notes());
    let files = source.files();
    note_left_out(&parts, console);
    let size = |name: &String| fs::metadata(files.path_of(name)).map_or(0, |metadata| metadata.len());
    let total: u64 = parts.names.iter().map(size).sum();
    let bar = console.bytes_bar("packing", total);
    output_file::write_with(&args.out, |file| {
        write_pack(file, &args.out, files, &parts.names, &|bytes| bar.inc(bytes))
    })
    .map_err(|error| with_space_hint(error, total))?;
    bar.finish_and_clear();
    console.done(&format!(
        "{}, {} in {}",
        count(parts.names.len(), "file"),
        bytes(total),
        args.out.display()
    ));
    Ok(())
}

/// Adds to an error about a full disk the size of the pack, of about `total` bytes.
fn with_space_hint(error: Error, total: u64) -> Error {
    let size = bytes(total);
    match error.io_kind() {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            error.hint(format!("the pack takes {size}: make room, or choose another disk for it"))
        }
        Some(ErrorKind::FileTooLarge) => error.hint(format!(
            "the pack takes {size}, and a limit keeps files from becoming so large: raise it (`ulimit -f`), or choose \
             another disk for it"
        )),
        _ => error,
    }
}

/// Notes files in the folder that are no part of the model.
pub fn note_left_out(parts: &Parts, console: &Console) {
    if !parts.left_out.is_empty() {
        console.notes(&[format!("left out, as no part of the model: {}", parts.left_out.join(", "))]);
    }
}

/// Fails if `out` is one of the model's own files, or in its folder, where it would be taken for a part of the model
/// and be lost when the folder is replaced.
fn check_output(source: &SourceModel, parts: &Parts, out: &Path) -> Result<()> {
    let real = fs::canonicalize(out).ok();
    let is_output =
        |name: &&String| real.is_some() && fs::canonicalize(source.files().path_of(name)).ok() == real;
    if let Some(name) = parts.names.iter().find(is_output) {
        return Err(Error::usage(format!("the output {} is the model's own `{name}`", out.display()))
            .hint("choose another name for --out"));
    }
    match (fs::canonicalize(output_file::existing_folder(out)), fs::canonicalize(source.dir())) {
        (Ok(parent), Ok(model)) if parent.starts_with(&model) => {
            Err(Error::usage(format!("the output {} is in the model's own folder", out.display()))
                .hint("choose a place outside of it for --out"))
        }
        _ => Ok(()),
    }
}
