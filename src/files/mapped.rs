//! Mapped bytes of a file, or of a part of one.

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use super::digest::hexadecimal;
use super::lfs_pointer;
use crate::error::{Error, Result};
use crate::system::release_pages;

/// Bytes of a file, mapped. Clones share the mapping.
#[derive(Debug, Clone)]
pub struct Mapped {
    /// Mapping; `None` for an empty file, which cannot be mapped.
    map: Option<Arc<Mmap>>,
    start: usize,
    end: usize,
}

impl Mapped {
    /// Maps the file `path`, unless it is a pointer of Git LFS.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        if length == 0 {
            return Ok(Self { map: None, start: 0, end: 0 });
        }
        // SAFETY: as with every mapped file, nobody may shrink it while it is read; model files are not written to.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        lfs_pointer::refuse(path, &map)?;
        let end = map.len();
        Ok(Self { map: Some(Arc::new(map)), start: 0, end })
    }

    /// Returns the bytes from `start` to `end` of these; `None` where there are not as many.
    pub fn part(&self, start: usize, end: usize) -> Option<Self> {
        self.get(start..end)?;
        Some(Self { map: self.map.clone(), start: self.start + start, end: self.start + end })
    }

    /// Returns the bytes from `start` to `end` and maps their pages in one go.
    pub fn populated(&self, start: usize, end: usize) -> &[u8] {
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.map {
            let from = (self.start + start) / crate::system::PAGE_BYTES * crate::system::PAGE_BYTES;
            let length = self.start + end - from;
            // Only a hint: without it the pages come one fault at a time.
            let _ = map.advise_range(memmap2::Advice::PopulateRead, from, length);
        }
        &self[start..end]
    }

    /// Tells the kernel that these bytes were read and need not stay mapped, so that resident memory does not grow with
    /// the file.
    pub fn release(&self, start: usize, end: usize) {
        if let Some(map) = &self.map {
            release_pages(map, self.start + start, self.start + end);
        }
    }

    /// Hands the bytes to `read` in chunks of 8 MiB, in order, and releases each one after it. Stops at Ctrl-C.
    pub fn chunks(&self, mut read: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const CHUNK_BYTES: usize = 8 << 20;
        for start in (0..self.len()).step_by(CHUNK_BYTES) {
            crate::interrupt::check()?;
            let end = (start + CHUNK_BYTES).min(self.len());
            read(self.populated(start, end))?;
            self.release(start, end);
        }
        Ok(())
    }

    /// Computes the SHA-256 of all bytes, in hexadecimal. Stops at Ctrl-C.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        self.chunks(|chunk| {
            hash.update(chunk);
            Ok(())
        })?;
        Ok(hexadecimal(hash))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[self.start..self.end])
    }
}
