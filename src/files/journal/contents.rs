//! Entries of a journal as bytes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::header::{ANEW, Header};
use crate::error::{Error, Result};
use crate::files::digest::digest;

/// An entry of an earlier run.
#[derive(Debug)]
pub struct Entry<E> {
    /// The entry itself.
    pub value: E,
    /// Offset of its payload in the file.
    pub start: usize,
}

/// The line before a payload.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Bytes of the payload.
    bytes: usize,
    /// SHA-256 of entry and payload.
    sha256: String,
    entry: Value,
}

/// Returns the error for a journal at `path` with other bytes than were written.
pub fn damaged(path: &Path) -> Error {
    Error::file(path, "damaged: its SHA-256 is not the one that was written with it").hint(ANEW)
}

pub(super) fn json_line(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(|e| Error::file(path, e.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

pub(super) fn entry_line(path: &Path, entry: &impl Serialize, payload: &[&[u8]]) -> Result<Vec<u8>> {
    let failed = |e: serde_json::Error| Error::file(path, e.to_string());
    let entry = serde_json::to_value(entry).map_err(failed)?;
    let text = serde_json::to_vec(&entry).map_err(failed)?;
    let sha256 = digest([&text[..]].iter().chain(payload));
    json_line(path, &Line { bytes: payload.iter().map(|part| part.len()).sum(), sha256, entry })
}

/// The whole entries of a journal, up to the first that is not.
pub(super) struct Contents<E> {
    pub(super) header: Option<Header>,
    pub(super) entries: Vec<Entry<E>>,
    /// Offset of the end of the last of them.
    pub(super) end: usize,
    /// True if what follows is damaged, and not merely cut off.
    pub(super) is_damaged: bool,
}

impl<E> Default for Contents<E> {
    fn default() -> Self {
        Self { header: None, entries: Vec::new(), end: 0, is_damaged: false }
    }
}

impl<E: DeserializeOwned> Contents<E> {
    pub(super) fn read(path: &Path, file: &File, header: &Header) -> Result<Self> {
        let failed = |e| Error::io(path, e);
        let size = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut contents = Self::default();
        let Some((was, length)) = Header::read(path, &mut reader, &header.kind)? else { return Ok(contents) };
        header.check(path, &was)?;
        (contents.header, contents.end) = (Some(was), length);
        let (mut line, mut payload) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            let start = contents.end + reader.read_until(b'\n', &mut line).map_err(failed)?;
            if !line.ends_with(b"\n") {
                return Ok(contents);
            }
            contents.is_damaged = true;
            let Ok(Line { bytes, sha256, entry }) = serde_json::from_slice(&line) else {
                return Ok(contents);
            };
            let Some(end) = start.checked_add(bytes).filter(|&end| end as u64 <= size) else {
                contents.is_damaged = false;
                return Ok(contents);
            };
            payload.resize(bytes, 0);
            reader.read_exact(&mut payload).map_err(failed)?;
            let Ok(text) = serde_json::to_vec(&entry) else { return Ok(contents) };
            if digest([&text, &payload]) != sha256 {
                contents.is_damaged = end as u64 != size;
                return Ok(contents);
            }
            let Ok(value) = serde_json::from_value(entry) else { return Ok(contents) };
            contents.is_damaged = false;
            contents.entries.push(Entry { value, start });
            contents.end = end;
        }
    }

    /// Fails where damage leaves no entry.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        if self.is_damaged && self.entries.is_empty() { Err(damaged(path)) } else { Ok(()) }
    }

    /// Fails unless the journal has just this header.
    pub(super) fn check_header(&self, path: &Path, header: &Header) -> Result<()> {
        if self.header.as_ref().is_some_and(|was| was != header) { Err(damaged(path)) } else { Ok(()) }
    }
}
