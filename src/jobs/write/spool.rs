//! Quantized layers that wait in a file until the model is written: rounding goes block by block, writing in the order of
//! names, and memory does not grow with the model.

use memmap2::Mmap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::numerics::affine::Quantized;

/// Takes layers.
#[derive(Debug)]
pub struct Spool {
    /// The file, or its folder if it has no name.
    place: PathBuf,
    file: BufWriter<File>,
    length: usize,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
}

impl Spool {
    /// An unnamed file in `folder`, gone when it is dropped.
    pub fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, e))?;
        Ok(Self::go_on(folder, file, 0, BTreeMap::new()))
    }

    /// A `file` at `place` that holds `layers`, is so long and takes more at its end. Nobody else writes it.
    pub(crate) fn go_on(
        place: &Path,
        file: File,
        length: usize,
        layers: BTreeMap<String, Quantized<Range<usize>>>,
    ) -> Self {
        Self { place: place.to_owned(), file: BufWriter::with_capacity(1 << 20, file), length, layers }
    }

    /// Number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Adds a line of JSON, which is passed over when layers are read.
    pub(crate) fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(value).map_err(|e| Error::file(&self.place, e.to_string()))?;
        text.push(b'\n');
        self.put(&text).map(drop)
    }

    /// Hands what was added to the system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io(&self.place, e))
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
        let failed = |e: std::io::Error| Error::io(&self.place, e);
        let file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        // SAFETY: the file has no name, or is ours by its lock: nobody else changes it.
        let map = if self.length == 0 { None } else { Some(unsafe { Mmap::map(&file) }.map_err(failed)?) };
        Ok(Spooled { map, layers: self.layers, _file: file })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Range<usize>> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.place, e))?;
        self.length += bytes.len();
        Ok(self.length - bytes.len()..self.length)
    }
}

/// Gives layers back.
#[derive(Debug)]
pub struct Spooled {
    map: Option<Mmap>,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
    /// Keeps its lock.
    _file: File,
}

impl Spooled {
    /// Tells the kernel that `part` of a layer was read and need not stay mapped, so that resident memory does not grow
    /// with the model.
    pub fn release(&self, part: &[u8]) {
        if let Some(map) = &self.map {
            let start = (part.as_ptr() as usize).saturating_sub(map.as_ptr() as usize);
            crate::system::release_pages(map, start, start + part.len());
        }
    }

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
        let large = Quantized { packed: vec![5; 40_000], scales: vec![6; 8], biases: vec![7; 8] };
        let mut spool = Spool::create(home.path()).unwrap();
        spool.add("x", &layer(1)).unwrap();
        spool.add("y", &large).unwrap();
        let released = spool.seal().unwrap();
        released.release(released.get("y").unwrap().packed);
        assert_eq!(released.get("y"), Some(large.as_slices()));
        assert_eq!(released.get("x"), Some(layer(1).as_slices()));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it has no name");
    }
}
