//! Models of which only the headers are fetched, for commands that look at names, types and shapes and at no value.
//!
//! The headers come in ranges, into a temporary folder whose weight files are as long as those on the Hub and have
//! holes where the values would be: code that opens a model sees no difference. Nothing that looks like weights goes
//! into the cache.

use hf_hub::Repo;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::client::Failure;
use super::name::Repository;
use super::reader::Reader;
use super::settings::Settings;
use crate::error::{Error, Result};

/// Bytes that are requested before the header's length is known: most headers are not longer.
const FIRST_BYTES: u64 = 64 << 10;
/// Most bytes of a header; the safetensors crate refuses longer ones when the file is opened.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Temporary folder of a model's headers, removed when this is dropped.
#[derive(Debug)]
pub struct Headers {
    _home: TempDir,
    folder: PathBuf,
    place: PathBuf,
}

/// Beginning of a file on the Hub.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    bytes: Vec<u8>,
    /// Bytes of the whole file, where the server says them.
    size: Option<u64>,
}

impl Headers {
    /// Makes an empty folder, named like one of the cache so that its model has the name that it has on the Hub.
    pub(crate) fn new(settings: &Settings, repository: &Repository, commit: &str) -> Result<Self> {
        let parent = std::env::temp_dir();
        let home = tempfile::Builder::new().prefix("mixbit-headers-").tempdir_in(&parent);
        let home = home.map_err(|e| Error::io(&parent, e))?;
        let name = Repo::model(repository.id.clone()).folder_name();
        let folder = home.path().join(name).join("snapshots").join(commit);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(Self { _home: home, folder, place: repository.place(settings).into() })
    }

    /// Returns the folder, a model as far as headers go.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces the folder's path in an error by the model's place on the Hub.
    pub fn relocated(&self, error: Error) -> Error {
        error.relocated(&self.folder, &self.place)
    }

    /// Copies the whole file `from` into the folder.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.folder.join(name)).map(drop).map_err(|e| Error::io(from, e))
    }

    /// Makes the weight file `name`, of `size` bytes, of which only the `beginning` has contents.
    pub(crate) fn write(&self, name: &str, beginning: &[u8], size: u64) -> Result<()> {
        let path = self.folder.join(name);
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            let mut file = File::create(&path)?;
            file.write_all(beginning)?;
            file.set_len(size)
        };
        write().map_err(|e| Error::io(&path, e))
    }
}

impl Beginning {
    /// Returns the bytes, and the size of the whole file; `None` where the server does not say it.
    pub(crate) fn into_parts(self) -> Option<(Vec<u8>, u64)> {
        let size = self.size?;
        Some((self.bytes, size))
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Requests the missing part of the header of the safetensors file at `url`, in one range or two. From a server
    /// that sends whole files whatever is requested, no more is read either; where it does not say how long the file
    /// is, less may be.
    pub(crate) fn read(&mut self, reader: &Reader, url: &str) -> Result<(), Failure> {
        while self.len() < self.wanted() {
            let (before, wanted) = (self.len(), self.wanted());
            let mut contents = match reader.part(url, before, wanted) {
                // There is not a single byte.
                Err(failure) if failure.is_status(416) && before == 0 => {
                    self.size = Some(0);
                    return Ok(());
                }
                contents => contents?,
            };
            self.bytes.truncate(contents.start as usize);
            self.size = contents.size.or(self.size);
            let mut buffer = vec![0; 1 << 14];
            while self.len() < self.wanted() {
                match contents.read(&mut buffer)? {
                    0 => break,
                    count => self.bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                }
            }
            if self.size.is_none() {
                return Ok(());
            }
            if self.len() <= before {
                return Err(Failure::Broken("the answer ended early".to_owned()));
            }
        }
        Ok(())
    }

    /// Returns the bytes of the file that are needed, as far as is known. A file without a header is left to be refused
    /// when it is opened.
    fn wanted(&self) -> u64 {
        let most = self.size.unwrap_or(u64::MAX);
        let Some(length) = self.bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
            return FIRST_BYTES.min(most);
        };
        // Bytes with an impossible length, or without a brace, are no header: nothing further is fetched.
        let is_header = length <= MAX_HEADER_BYTES.min(most.saturating_sub(8))
            && self.bytes.get(8).is_none_or(|&byte| byte == b'{');
        if is_header { 8 + length } else { 8 }
    }
}
