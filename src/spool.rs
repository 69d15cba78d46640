//! Quantized layers that wait in a file until the model is written: rounding goes block by block, writing in the order of
//! names, and memory does not grow with the model.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::affine::Quantized;
use crate::error::{Error, Result};

/// Takes layers.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    file: BufWriter<File>,
    length: usize,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
}

impl Spool {
    /// An unnamed file in `folder`, gone when it is dropped.
    pub fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { folder: folder.to_owned(), file, length: 0, layers: BTreeMap::new() })
    }

    /// Adds the layer at `path`.
    pub fn add(&mut self, path: &str, layer: &Quantized) -> Result<()> {
        let parts = Quantized {
            packed: self.put(&layer.packed)?,
            scales: self.put(&layer.scales)?,
            biases: self.put(&layer.biases)?,
        };
        self.layers.insert(path.to_owned(), parts);
        Ok(())
    }

    /// Ends taking: from here on layers are read.
    pub fn seal(self) -> Result<Spooled> {
        let failed = |e: std::io::Error| Error::io(&self.folder, e);
        let file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        // SAFETY: the file has no name, so nobody else can change it.
        let map = if self.length == 0 { None } else { Some(unsafe { Mmap::map(&file) }.map_err(failed)?) };
        Ok(Spooled { map, layers: self.layers })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Range<usize>> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.folder, e))?;
        self.length += bytes.len();
        Ok(self.length - bytes.len()..self.length)
    }
}

/// Gives layers back.
#[derive(Debug)]
pub struct Spooled {
    map: Option<Mmap>,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
}

impl Spooled {
    /// The layer at `path`, if it was added.
    pub fn get(&self, path: &str) -> Option<Quantized<&[u8]>> {
        let parts = self.layers.get(path)?;
        let bytes = |range: &Range<usize>| self.map.as_ref()?.get(range.clone());
        Some(Quantized {
            packed: bytes(&parts.packed)?,
            scales: bytes(&parts.scales)?,
            biases: bytes(&parts.biases)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_come_back_as_they_were() {
        let home = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(home.path()).unwrap();
        let layer = |n: u8| Quantized { packed: vec![n; 12], scales: vec![n + 1; 4], biases: vec![n + 2; 4] };
        spool.add("b", &layer(1)).unwrap();
        spool.add("a", &layer(7)).unwrap();
        let spooled = spool.seal().unwrap();
        assert_eq!(spooled.get("a"), Some(layer(7).as_slices()));
        assert_eq!(spooled.get("b"), Some(layer(1).as_slices()));
        assert_eq!(spooled.get("c"), None);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it has no name");
    }
}
