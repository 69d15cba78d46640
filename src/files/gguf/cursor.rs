//! Numbers and texts of a header, each checked against the end of the file.

use std::path::Path;

use super::value::Value;
use crate::error::{Error, Result};

/// Most values of a list that are read; the largest vocabularies have a sixteenth of it.
const MAX_VALUES: usize = 1 << 24;

/// Deepest list of lists that is read.
const MAX_DEPTH: usize = 4;

/// Place in a header.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    /// Returns the number of bytes before this place.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn ends(&self, what: &str) -> Error {
        Error::file(self.path, format!("ends within {what}"))
            .hint("the file is truncated or damaged: copy or download it again")
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.bytes[self.at..].first_chunk().copied().ok_or_else(|| self.ends(what))?;
        self.at += N;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.take(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// Reads a number of things, each of at least `least` bytes.
    pub(super) fn count(&mut self, least: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        match usize::try_from(count) {
            Ok(small) if small <= self.rest() / least => Ok(small),
            _ => Err(Error::file(
                self.path,
                format!(
                    "says that there are {count} in {what}, which its {} bytes cannot hold",
                    self.bytes.len()
                ),
            )
            .hint("the file is truncated or damaged: copy or download it again")),
        }
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String> {
        let length = self.count(1, what)?;
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| Error::file(self.path, format!("{what} is no UTF-8 text")))
    }

    /// Reads the type and the value under `key`.
    pub(super) fn value(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        self.value_of(kind, key, 0)
    }

    fn value_of(&mut self, kind: u32, key: &str, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.take(key)?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.take(key)?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.take(key)?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.take(key)?).into()),
            4 => Value::Integer(self.u32(key)?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.take(key)?).into()),
            6 => Value::Single(f32::from_le_bytes(self.take(key)?)),
            7 => Value::Bool(self.take::<1>(key)? != [0]),
            8 => Value::Text(self.text(key)?),
            9 if depth < MAX_DEPTH => Value::List(self.list(key, depth)?),
            10 => Value::Integer(self.u64(key)?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.take(key)?).into()),
            12 => Value::Double(f64::from_le_bytes(self.take(key)?)),
            _ => {
                return Err(Error::key(
                    self.path,
                    key,
                    format!("a value of type {kind}, which GGUF does not have"),
                )
                .hint("the file is damaged: copy or download it again"));
            }
        })
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Vec<Value>> {
        let kind = self.u32(key)?;
        let least = match kind {
            8 | 10..=12 => 8,
            4..=6 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let count = self.count(least, key)?;
        if count > MAX_VALUES {
            return Err(Error::key(self.path, key, format!("{count} values, which no model has")));
        }
        (0..count).map(|_| self.value_of(kind, key, depth + 1)).collect()
    }
}
