//! Writer of .npz files, member by member.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::read::{ZIP64_BYTES, npy_header};
use crate::error::{Error, Result};
use crate::files::until_failure::UntilFailure;
use crate::formats::checkpoint::Checkpoint;
use crate::numerics::dtype::Dtype;

/// Writer of an npz; members over 4 GB become zip64.
pub struct NpzWriter {
    path: PathBuf,
    zip: ZipWriter<UntilFailure<BufWriter<File>>>,
}

impl NpzWriter {
    /// Starts the file `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io(path, e))?;
        let output = UntilFailure::new(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { path: path.to_owned(), zip: ZipWriter::new(output) })
    }

    /// Adds a C-contiguous array from its little-endian bytes.
    pub fn add(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<()> {
        self.start(name, dtype, shape, bytes.len())?;
        self.write(bytes)
    }

    pub(super) fn start(&mut self, name: &str, dtype: Dtype, shape: &[usize], length: usize) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(length as u64 >= ZIP64_BYTES);
        self.zip.start_file(format!("{name}.npy"), options).map_err(|e| Error::io(&self.path, e.into()))?;
        self.write(&npy_header(dtype, shape))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.zip.write_all(bytes).map_err(|e| Error::io(&self.path, e))
    }

    /// Writes the directory and flushes to disk.
    pub fn finish(self) -> Result<()> {
        let io = |e: std::io::Error| Error::io(&self.path, e);
        let buffered = self.zip.finish().map_err(|e| io(e.into()))?.into_inner();
        let file = buffered.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)
    }
}

/// Writes every tensor of `from` into the new npz file `path`.
pub fn write_npz(path: &Path, from: &Checkpoint) -> Result<()> {
    let mut npz = NpzWriter::create(path)?;
    for (name, tensor) in from.iter() {
        npz.start(name, tensor.dtype, tensor.shape, tensor.byte_len())?;
        let mut at = 0;
        for chunk in tensor.bytes().chunks(8 << 20) {
            crate::interrupt::check()?;
            npz.write(chunk)?;
            tensor.release(at, at + chunk.len());
            at += chunk.len();
        }
    }
    npz.finish()
}
