//! All checks of a folder, one after the other, and the findings that they give.

use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

use super::folder::Folder;
use crate::error;
use crate::error::{Error, ErrorKind, Result};
use crate::files::hub_cache;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, and is worth knowing.
    Note,
    /// The model is damaged, contradicts itself or cannot be used.
    Problem,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at. In JSON an object with these four keys, `hint` null where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What was looked at, in one or two words: `shapes`, `bit map`.
    pub subject: &'static str,
    /// What was found, in one line.
    pub message: String,
    /// What to do about it.
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

    /// An error as a problem.
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

/// Everything that can be said about the model folder `dir`, and about how it relates to the folder `reference` that it
/// was made from.
///
/// # Errors
/// When `dir` is no folder and no pack, or Ctrl-C was pressed. Whatever else goes wrong is a finding.
pub fn check(dir: &Path, reference: Option<&Path>, progress: Progress<'_>) -> Result<Vec<Finding>> {
    let (folder, mut findings) = Folder::open(dir)?;
    findings.extend(super::files::check(&folder, progress)?);
    findings.extend(super::structure::check(&folder));
    let (tensors, wrong) = super::tensors::check(&folder);
    findings.extend(tensors);
    findings.extend(folder.refused.as_ref().and_then(|error| unsaid(error, &findings, &wrong)));
    findings.extend(super::values::check(&folder, progress)?);
    findings.extend(super::tokens::check(&folder));
    let template = super::template::check(&folder);
    // Where it keeps the tokenizer from being read, that has been said.
    let new = |found: &Finding| findings.iter().all(|said| said.message != found.message);
    let template: Vec<Finding> = template.into_iter().filter(new).collect();
    findings.extend(template);
    findings.extend(super::forward::check(&folder));
    if let Some(reference) = reference {
        findings.extend(super::reference::check(&folder, reference, progress)?);
    }
    Ok(findings)
}

/// Why the model cannot be loaded, unless that was said: the loader stops at the first of what the checks list whole.
/// `wrong` are the tensors that were called missing, left over or misshapen.
fn unsaid(error: &Error, findings: &[Finding], wrong: &BTreeSet<String>) -> Option<Finding> {
    let refusal = Finding::refusal("load", error);
    let named = matches!(error.kind(), ErrorKind::Tensor { tensor, .. } if wrong.contains(tensor));
    let said = findings.iter().any(|finding| finding.message == refusal.message);
    (!named && !said).then_some(refusal)
}

/// The first few of `names`, and how many more there are.
pub(crate) fn list(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names = |n: usize| (0..n).map(|i| format!("`{i}`")).collect::<Vec<_>>();
        assert_eq!(list(&names(3)), "`0`, `1`, `2`");
        assert_eq!(list(&names(5)), "`0`, `1`, `2` and 2 more");
    }

    #[test]
    fn a_finding_is_one_line() {
        assert_eq!(Finding::note("x", "a\n  b").message, "a b");
    }
}
