//! Files that are called by the SHA-256 of their contents, as large ones in the Hub's cache are: what came can be compared
//! with what was asked for.

use rayon::prelude::*;
use std::path::PathBuf;

use super::mapped::Mapped;
use super::model_files::ModelFiles;
use crate::error::{Error, Result};
use crate::files::hub_cache;

/// Such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Where the model has it.
    path: PathBuf,
    /// What it is called, in hexadecimal.
    sha256: String,
}

impl Called {
    /// Fails unless the contents are those that it is called by. Reads them whole.
    pub fn verify(&self) -> Result<()> {
        let found = Mapped::open(&self.path)?.sha256()?;
        if found == self.sha256 {
            return Ok(());
        }
        let message = format!("is damaged: its SHA-256 is {found}, the Hub's cache calls it {}", self.sha256);
        Err(Error::file(&self.path, message).hint("it was changed after it was downloaded"))
    }
}

/// Those among `files`, sorted by name.
pub(crate) fn called(files: &ModelFiles) -> Vec<Called> {
    let names = if files.pack().is_some() { Vec::new() } else { files.names().unwrap_or_default() };
    let found = names.iter().filter_map(|name| {
        let path = files.path_of(name);
        let sha256 = hub_cache::blob_in_cache(&path)?.file_name()?.to_str()?.to_owned();
        let is_hash =
            sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_hash.then_some(Called { path, sha256 })
    });
    found.collect()
}

/// Fails at the first of `files` that is not what it is called by.
pub(crate) fn verify(files: &ModelFiles) -> Result<()> {
    called(files).par_iter().map(Called::verify).collect::<Vec<_>>().into_iter().collect()
}
