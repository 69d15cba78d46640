//! First line of a journal: the kind of work and the settings that it was begun with, as JSON.

use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read};
use std::path::Path;

use crate::error::{Error, Result};

const VERSION: u32 = 1;

/// First bytes of every journal.
const START: &[u8] = b"{\"journal\":";

/// Bytes of the longest first line.
const LONGEST_HEADER: u64 = 1 << 20;

/// Hint for unfinished work that cannot be resumed.
pub const ANEW: &str = "setting `overwrite` instead of setting `resume` starts anew";

/// Name of the setting that holds the model's fingerprint.
pub const MODEL: &str = "the model";

/// Kind of work, and the settings it is done with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    journal: u32,
    pub(super) kind: String,
    settings: Vec<(String, String)>,
}

impl Header {
    /// Begins a header without settings, for a `kind` of work such as `rounding`.
    pub fn new(kind: &str) -> Self {
        Self { journal: VERSION, kind: kind.to_owned(), settings: Vec::new() }
    }

    /// Adds a setting, by its name in one word or in words for people, such as `samples` and `the model`. An empty value is
    /// not known yet, and [`super::Journal::has_unfinished`] does not compare it. A later value replaces an earlier one.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a list of settings is easier to read without references"
    )]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        match self.settings.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => self.settings.push((name.to_owned(), value)),
        }
        self
    }

    /// Returns the value of the setting `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Reads a header and its length; nothing where the file is empty or the header was cut off. Errors name the `kind` of
    /// work.
    pub(super) fn read(path: &Path, reader: &mut impl BufRead, kind: &str) -> Result<Option<(Self, usize)>> {
        let mut line = Vec::new();
        let length =
            reader.take(LONGEST_HEADER).read_until(b'\n', &mut line).map_err(|e| Error::io(path, e))?;
        if !line.ends_with(b"\n") && (START.starts_with(&line) || line.starts_with(START)) {
            return Ok(None);
        }
        match serde_json::from_slice::<Self>(&line) {
            Ok(header) if header.journal == VERSION => Ok(Some((header, length))),
            _ => Err(Error::file(path, format!("does not begin like an unfinished {kind}")).hint(ANEW)),
        }
    }

    /// Fails where the journal at `path` was begun with the header `was`, and that is of another kind or has other settings.
    pub(super) fn check(&self, path: &Path, was: &Self) -> Result<()> {
        if was.kind != self.kind {
            let message = format!("holds an unfinished {}, not a {}", was.kind, self.kind);
            return Err(Error::file(path, message).hint(ANEW));
        }
        // Numbers that the user has not given follow from the model.
        let has_other_model =
            was.value(MODEL).is_some_and(|was| self.value(MODEL).is_some_and(|now| now != was));
        let compared = self.settings.iter().filter(|(name, _)| !has_other_model || name == MODEL);
        let changed = compared.filter_map(|(name, now)| {
            let was = was.value(name).unwrap_or("not set");
            let name = if name.contains(' ') { name.clone() } else { format!("setting `{name}`") };
            (!now.is_empty() && was != now)
                .then(|| format!("{name} was {}, now it is {}", shortened(was), shortened(now)))
        });
        let changed: Vec<String> = changed.collect();
        if changed.is_empty() && was.settings.iter().all(|(name, _)| self.value(name).is_some()) {
            return Ok(());
        }
        if has_other_model {
            let message = format!("was begun with another model: {}", changed.join("; "));
            return Err(Error::file(path, message).hint(format!("give that model, or {ANEW}")));
        }
        if changed.is_empty() {
            return Err(Error::file(path, "was begun by another version of mixbit").hint(ANEW));
        }
        Err(Error::file(path, format!("was begun with other settings: {}", changed.join("; ")))
            .hint(format!("repeat the command as it was; {ANEW}")))
    }
}

/// Returns as much of a setting's value as tells it from another: a SHA-256 is cut.
fn shortened(value: &str) -> &str {
    let is_digest = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    value.get(..12).filter(|_| is_digest).unwrap_or(value)
}
