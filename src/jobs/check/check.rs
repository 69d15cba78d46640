//! The check of a folder: runs all parts and collects their findings.

use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

use super::folder::Folder;
use crate::error;
use crate::error::{Error, ErrorKind, Result};
use crate::files::hub_cache;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// Works, and is worth knowing.
    Note,
    /// The model is damaged, contradicts itself or cannot be used.
    Problem,
}

impl Level {
    /// Returns the level's word in output and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// Result of checking one subject. In JSON an object with these four keys, `hint` null where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Severity.
    pub level: Level,
    /// Subject of the check, in one or two words: `shapes`, `bit map`.
    pub subject: &'static str,
    /// Result, in one line.
    pub message: String,
    /// Advice to the user.
    pub hint: Option<String>,
}

impl Finding {
    fn new(level: Level, subject: &'static str, message: impl Into<String>) -> Self {
        Self { level, subject, message: error::one_line(&error::cut(message.into())), hint: None }
    }

    pub(crate) fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, message)
    }

    pub(crate) fn note(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Note, subject, message)
    }

    pub(crate) fn problem(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Problem, subject, message)
    }

    /// Reports an error as a problem.
    pub(crate) fn refusal(subject: &'static str, error: &Error) -> Self {
        Self { hint: hub_cache::hint_in_cache(error), ..Self::problem(subject, error.to_string()) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Called with bytes read so far and bytes to read.
pub type Progress<'a> = &'a dyn Fn(u64, u64);

/// Checks the model folder `dir`, and compares it with the folder `reference` that it was made from.
///
/// # Errors
/// When `dir` is no folder and no pack, or the work is interrupted. All other errors are findings.
pub fn check(dir: &Path, reference: Option<&Path>, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let (folder, mut findings) = Folder::open(dir)?;
    findings.extend(super::files::check(&folder, progress)?);
    findings.extend(super::structure::check(&folder));
    let (tensors, wrong) = super::tensors::check(&folder);
    findings.extend(tensors);
    findings.extend(folder.refused.as_ref().and_then(|error| load_error(error, &findings, &wrong)));
    findings.extend(super::values::check(&folder, progress)?);
    findings.extend(super::tokens::check(&folder));
    let template = super::template::check(&folder);
    // A template that keeps the tokenizer from being read is reported already.
    let is_new = |finding: &Finding| findings.iter().all(|earlier| earlier.message != finding.message);
    let template: Vec<Finding> = template.into_iter().filter(is_new).collect();
    findings.extend(template);
    findings.extend(super::forward::check(&folder));
    if let Some(reference) = reference {
        findings.extend(super::reference::check(&folder, reference, progress)?);
    }
    Ok(findings)
}

/// Reports the error that keeps the model from being loaded, unless the `findings` have it: the loader stops at the
/// first of the errors that the checks list in full. `wrong` are the tensors reported as missing, left over or
/// misshapen.
fn load_error(error: &Error, findings: &[Finding], wrong: &BTreeSet<String>) -> Option<Finding> {
    let refusal = Finding::refusal("load", error);
    let is_tensor_reported =
        matches!(error.kind(), ErrorKind::Tensor { tensor, .. } if wrong.contains(tensor));
    let is_reported = findings.iter().any(|finding| finding.message == refusal.message);
    (!is_tensor_reported && !is_reported).then_some(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        assert_eq!(Finding::note("x", "a\n  b").message, "a b");
    }
}
