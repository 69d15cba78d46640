//! Errors, hints and notes about unfinished work.

use std::path::Path;

use super::journal::Journal;
use crate::error::Error;

/// Adds to the `error` of a job, such as an interruption, that it resumes after what is `done`.
pub fn resume_after(error: Error, done: &str) -> Error {
    error.resume_hint(resuming(done))
}

fn resuming(done: &str) -> String {
    format!("the same command with setting `resume` resumes after {done}")
}

/// Adds to the hint of an `error` that what is done is kept in the `journals`, and how to resume, unless it says so.
pub fn with_kept_work(error: Error, journals: &[&Path]) -> Error {
    if error.is_resumable() {
        return error;
    }
    let hint = error.hint_text().unwrap_or_default().to_owned();
    let paths: Vec<String> = journals.iter().map(|path| path.display().to_string()).collect();
    let kept = format!("what is done is kept in {}: {}", paths.join(" and "), resuming("it"));
    error.resume_hint(if hint.is_empty() { kept } else { format!("{hint}; {kept}") })
}

/// Returns the error for unfinished work at `path`, or a file that is none, that a new start would lose.
pub fn unfinished(path: &Path) -> Error {
    if Journal::peek(path).is_none() {
        return Error::file(
            path,
            "lies where unfinished work is kept, and is none of this version of mixbit",
        )
        .hint("setting `overwrite` replaces it, or choose another output");
    }
    Error::file(path, "holds what an interrupted run has done")
        .hint("setting `resume` continues it, setting `overwrite` starts anew")
}

/// Returns the note for a run that is to resume where none of the journals called `names` holds unfinished work.
pub fn nothing_to_resume(names: &[String]) -> String {
    let names = match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        names => names.concat(),
    };
    format!(
        "setting `resume` has nothing to continue: no unfinished work in {names}; starting from the beginning"
    )
}
