//! Models among the arguments: names on the Hub become folders of its cache before a command starts.

use std::path::PathBuf;

use super::report::needs_values;
use crate::cli::args::{Answering, Command};
use crate::error::{Error, ErrorKind, Result};
use crate::files::hub;
use crate::files::hub::{Headers, Located, Need};
use crate::report::Console;

/// Replaces every name on the Hub by its folder in the cache, downloading the files that are needed and missing. The
/// headers that are returned must live until the command is done.
pub fn locate(command: &mut Command, console: &Console) -> Result<Vec<Headers>> {
    let need = need(command);
    let mut all_headers = Vec::new();
    for (model, revision) in models(command) {
        match hub::locate(model, revision, need, console)? {
            Located::There(path) => *model = path,
            Located::Headers(headers) => {
                headers.folder().clone_into(model);
                all_headers.push(headers);
            }
        }
    }
    Ok(all_headers)
}

/// Returns the folders among the models of `command` that hold no model and shadow the Hub's model of the same name.
pub fn shadowing_folders(command: &mut Command) -> Vec<PathBuf> {
    let folders = models(command).into_iter().map(|(model, _)| model.clone());
    folders.filter(|folder| hub::hides_a_name(folder)).collect()
}

/// Adds to an error about one of the `shadowing` folders how to get the Hub's model instead.
pub fn explain_shadowing(shadowing: &[PathBuf], error: Error) -> Error {
    let (ErrorKind::Io { path, .. } | ErrorKind::File { path, .. } | ErrorKind::Tensor { path, .. }) =
        error.kind()
    else {
        return error;
    };
    let Some(folder) = shadowing.iter().find(|folder| path.starts_with(folder)) else { return error };
    let name = folder.display().to_string();
    let instead = if name.contains('@') {
        "move it away to get the model of that name from the Hub".to_owned()
    } else {
        format!("`{name}@main` is the model of that name on the Hub")
    };
    error.hint(format!("the local folder `{name}` was taken, which has no config.json; {instead}"))
}

/// Returns the parts of its models that `command` reads.
fn need(command: &Command) -> Need {
    match command {
        Command::Inspect(_) => Need::Headers,
        Command::Report(args) if !needs_values(args) => Need::Headers,
        _ => Need::Whole,
    }
}

/// Returns the models that `command` reads, with `--revision` for its main one.
fn models(command: &mut Command) -> Vec<(&mut PathBuf, Option<&str>)> {
    match command {
        Command::Convert(args) => vec![(&mut args.hf_path, args.hub.revision.as_deref())],
        Command::Quantize(args) => vec![(&mut args.hf_path, args.hub.revision.as_deref())],
        Command::Dequantize(args) => vec![(&mut args.hf_path, args.hub.revision.as_deref())],
        Command::Analyze(args) => vec![(&mut args.model, args.hub.revision.as_deref())],
        Command::Inspect(args) => vec![(&mut args.model, args.hub.revision.as_deref())],
        Command::Run(args) => answering(&mut args.answering),
        Command::Chat(args) => answering(&mut args.answering),
        Command::Logits(args) => vec![(&mut args.model, args.hub.revision.as_deref())],
        Command::Eval(args) => {
            with_other(&mut args.reference, (&mut args.model, args.hub.revision.as_deref()))
        }
        Command::Check(args) => {
            with_other(&mut args.reference, (&mut args.model, args.hub.revision.as_deref()))
        }
        Command::Report(args) => {
            with_other(&mut args.reference, (&mut args.model, args.hub.revision.as_deref()))
        }
        Command::Pack(args) => vec![(&mut args.model, args.hub.revision.as_deref())],
        // The --revision of an upload is the branch to put the model on.
        Command::Upload(args) => vec![(&mut args.model, None)],
        Command::Curve(_) | Command::Models(_) | Command::Recipes(_) | Command::Unpack(_) => Vec::new(),
    }
}

fn answering(args: &mut Answering) -> Vec<(&mut PathBuf, Option<&str>)> {
    with_other(&mut args.draft.draft_model, (&mut args.model, args.hub.revision.as_deref()))
}

/// Returns a model, and the one that it is compared with or that drafts for it, whose revision comes after an `@`.
fn with_other<'a>(
    other: &'a mut Option<PathBuf>,
    model: (&'a mut PathBuf, Option<&'a str>),
) -> Vec<(&'a mut PathBuf, Option<&'a str>)> {
    std::iter::once(model).chain(other.as_mut().map(|other| (other, None))).collect()
}
