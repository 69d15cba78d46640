//! Files named by the SHA-256 of their contents, as large ones in the Hub's cache are: their contents can be compared
//! with what was downloaded.

use rayon::prelude::*;
use std::path::PathBuf;

use super::mapped::Mapped;
use super::model_files::ModelFiles;
use crate::error::{Error, Result};
use crate::files::hub_cache;

/// File with the SHA-256 that it is named by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedFile {
    /// Path of the file in the model's folder.
    path: PathBuf,
    /// SHA-256 in hexadecimal, lower case.
    sha256: String,
}

impl HashedFile {
    /// Fails unless the contents have the SHA-256 that the file is named by. Reads them whole.
    pub fn verify(&self) -> Result<()> {
        let actual = Mapped::open(&self.path)?.sha256()?;
        if actual == self.sha256 {
            return Ok(());
        }
        let message =
            format!("is damaged: its SHA-256 is {actual}, the Hub's cache calls it {}", self.sha256);
        Err(Error::file(&self.path, message).hint("it was changed after it was downloaded"))
    }
}

/// Returns the files among `files` that are named by their SHA-256, sorted by name.
pub(crate) fn hashed_files(files: &ModelFiles) -> Vec<HashedFile> {
    let paths: Vec<PathBuf> = match (files.pack(), files.gguf()) {
        (Some(_), _) => Vec::new(),
        (None, Some(gguf)) => gguf.shards().iter().map(|shard| shard.path.clone()).collect(),
        (None, None) => files.names().unwrap_or_default().iter().map(|name| files.path_of(name)).collect(),
    };
    let hashed = paths.into_iter().filter_map(|path| {
        let sha256 = hub_cache::blob_in_cache(&path)?.file_name()?.to_str()?.to_owned();
        let is_hash =
            sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_hash.then_some(HashedFile { path, sha256 })
    });
    hashed.collect()
}

/// Fails at the first of `files` whose contents do not have the SHA-256 that it is named by.
pub(crate) fn verify(files: &ModelFiles) -> Result<()> {
    hashed_files(files).par_iter().map(HashedFile::verify).collect::<Vec<_>>().into_iter().collect()
}
