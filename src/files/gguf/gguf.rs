//! A model in one GGUF file, or in several that are numbered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::header;
use super::header::Place;
use super::models::files_of;
use super::value::Value;
use crate::error::{Error, Result};
use crate::files::mapped::Mapped;

/// Mapped model.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    shards: Vec<Shard>,
}

/// File of a model.
#[derive(Debug)]
pub struct Shard {
    /// Path of the file.
    pub path: PathBuf,
    /// Its bytes.
    pub map: Mapped,
    /// Tensors in it.
    pub tensors: Vec<Place>,
}

impl Gguf {
    /// Opens the model that `path` is a file of. Headers are read and checked, no tensor is.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let names = files_of(&name);
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut all = Vec::new();
        for name in &names {
            let path = if names.len() == 1 { path.to_owned() } else { folder.join(name) };
            if names.len() > 1 && !path.is_file() {
                return Err(Error::file(&path, format!("is not there: the model has {} files", names.len()))
                    .hint("the download is incomplete: fetch this file"));
            }
            all.push(open_shard(&path)?);
        }
        let gguf = Self::join(path, all)?;
        gguf.check_split()?;
        Ok(gguf)
    }

    fn join(path: &Path, all: Vec<(BTreeMap<String, Value>, Shard)>) -> Result<Self> {
        let mut first = None;
        let mut shards: Vec<Shard> = Vec::new();
        let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (metadata, shard) in all {
            first.get_or_insert(metadata);
            for place in &shard.tensors {
                if let Some(other) = seen.insert(place.name.clone(), shard.path.clone()) {
                    return Err(Error::tensor(
                        &shard.path,
                        &place.name,
                        format!("is also in {}", other.display()),
                    ));
                }
            }
            shards.push(shard);
        }
        Ok(Self { path: path.to_owned(), metadata: first.unwrap_or_default(), shards })
    }

    /// Fails unless the files are as many, and have as many tensors, as the first of them says.
    fn check_split(&self) -> Result<()> {
        let tensors: usize = self.shards.iter().map(|shard| shard.tensors.len()).sum();
        for (key, found, what) in
            [("split.count", self.shards.len(), "files"), ("split.tensors.count", tensors, "tensors")]
        {
            let expected = self.metadata.get(key).and_then(Value::as_size).filter(|count| *count > 0);
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(Error::key(&self.path, key, format!("{expected} {what}, found {found}")).hint(
                    "files of a split model are called NAME-00001-of-00002.gguf, and all of them lie in one folder",
                ));
            }
        }
        Ok(())
    }

    /// Returns the path that was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the model's files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Returns the tensor called `name`, and the file that it is in.
    pub fn tensor(&self, name: &str) -> Option<(&Shard, &Place)> {
        let mut places =
            self.shards.iter().flat_map(|shard| shard.tensors.iter().map(move |place| (shard, place)));
        places.find(|(_, place)| place.name == name)
    }

    /// Returns the value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// Returns all keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// Reads the value under `key` with `read`, if there is one; `expected` says what it reads.
    pub fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("expected {expected}, found {}", value.shown()));
        read(value).map(Some).ok_or_else(wrong)
    }

    /// Reads a text, if there is one.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "a text", Value::as_text)
    }

    /// Reads an integer from 0, if there is one.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "an integer from 0", Value::as_size)
    }

    /// Reads true or false, if there is one.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// Returns an error about `key`.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::key(&self.path, key, message)
    }

    /// Returns the error for a `key` that is not there.
    pub fn missing(&self, key: &str) -> Error {
        self.error(key, "missing")
            .hint("the file's metadata must have it: make it again with llama.cpp's converter")
    }
}

fn open_shard(path: &Path) -> Result<(BTreeMap<String, Value>, Shard)> {
    let map = Mapped::open(path)?;
    if map.is_empty() {
        return Err(Error::file(path, "is empty").hint("the download is incomplete"));
    }
    let header = header::read(path, &map)?;
    Ok((header.metadata, Shard { path: path.to_owned(), map, tensors: header.tensors }))
}
