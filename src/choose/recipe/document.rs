//! A recipe's text and where it is from, so that every error can name file, line and key.

use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

const HINT: &str =
    "quant-recipes/README.md describes the format; `mixbit recipes show balanced` is an example";

/// The text of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The file, or for a recipe that mixbit carries its place in the repository.
    pub path: PathBuf,
    /// TOML.
    pub text: String,
}

impl Document {
    /// Reads the text as `T`; a key of a wrong name or type is an error at its line.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|e| self.toml_error(&e))
    }

    /// Returns the line of a byte, from 1.
    pub fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&byte| byte == b'\n').count()
    }

    /// Returns the line of a key at the top level, from 1.
    pub fn line_of(&self, key: &str) -> usize {
        let table = DeTable::parse(&self.text).ok();
        let start = table.and_then(|table| {
            table.get_ref().iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span().start)
        });
        start.map_or(1, |at| self.line(at))
    }

    /// Returns `FILE:LINE`.
    pub fn place(&self, line: usize) -> PathBuf {
        PathBuf::from(format!("{}:{line}", self.path.display()))
    }

    /// Returns an error at `line` about `key`.
    pub fn error(&self, line: usize, key: &str, message: impl Into<String>) -> Error {
        Error::key(self.place(line), key, message).hint(HINT)
    }

    /// Returns an error about the whole recipe.
    pub fn whole(&self, message: impl Into<String>) -> Error {
        Error::file(self.place(1), message).hint(HINT)
    }

    /// Returns the folder that paths in the recipe are relative to.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn toml_error(&self, error: &toml::de::Error) -> Error {
        let span = error.span().unwrap_or(0..0);
        let line = self.line(span.start);
        let message = error.message().trim().replace('\n', ", ");
        let (key, message) = match DeTable::parse(&self.text) {
            Err(_) => (self.first_word(line), format!("not valid TOML: {message}")),
            Ok(table) => {
                let mut keys = Vec::new();
                find_key(table.get_ref(), span.start, &mut keys);
                match message.split_once(", expected ") {
                    Some((unknown, expected)) if unknown.starts_with("unknown field") => {
                        (keys.join("."), format!("there is no such key, expected {expected}"))
                    }
                    _ => (keys.join("."), message),
                }
            }
        };
        if key.is_empty() {
            return Error::file(self.place(line), message).hint(HINT);
        }
        self.error(line, &key, message)
    }

    /// Returns the word that looks like a key, on a line that is not TOML.
    fn first_word(&self, line: usize) -> String {
        let line = self.text.lines().nth(line - 1).unwrap_or_default();
        let line = line.trim_start_matches(['[', ' ', '\t']);
        line.chars().take_while(|&c| c.is_ascii_alphanumeric() || "_-.".contains(c)).collect()
    }
}

/// Puts the path of the key whose name or value covers `at` into `keys`.
fn find_key(table: &DeTable<'_>, at: usize, keys: &mut Vec<String>) -> bool {
    for (key, value) in table {
        keys.push(key.get_ref().to_string());
        let below = match value.get_ref() {
            DeValue::Table(table) => find_key(table, at, keys),
            DeValue::Array(items) => {
                items.iter().filter_map(|item| item.get_ref().as_table()).any(|t| find_key(t, at, keys))
            }
            _ => false,
        };
        let (key, value) = (key.span(), value.span());
        if below || key.contains(&at) || value.contains(&at) {
            return true;
        }
        keys.pop();
    }
    false
}
