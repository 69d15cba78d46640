//! Quantized layers that wait in a file until the model is written: rounding goes block by block, writing in the order of
//! names, and memory does not grow with the model.

use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::numerics::affine::Quantized;

/// A file without a name that takes layers.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    file: BufWriter<File>,
    length: usize,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
}

impl Spool {
    /// Opens a file without a name in `folder`, gone when it is dropped.
    pub fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|e| Error::io(folder, e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { folder: folder.to_owned(), file, length: 0, layers: BTreeMap::new() })
    }

    /// Adds the layer at `path`.
    pub fn add(&mut self, path: &str, layer: &Quantized) -> Result<()> {
        for part in parts(layer) {
            self.file.write_all(part).map_err(|e| Error::io(&self.folder, e))?;
        }
        let ranges = ranges(self.length, parts(layer).map(<[u8]>::len));
        self.length = ranges.biases.end;
        self.layers.insert(path.to_owned(), ranges);
        Ok(())
    }

    /// Ends taking: from here on layers are read.
    pub fn seal(self) -> Result<Spooled> {
        let file = self.file.into_inner().map_err(|e| Error::io(&self.folder, e.into_error()))?;
        Spooled::map(&self.folder, file, self.layers)
    }
}

/// Returns the parts of a layer in the order in which files hold them.
pub(crate) fn parts(layer: &Quantized) -> [&[u8]; 3] {
    [&layer.packed, &layer.scales, &layer.biases]
}

/// Returns where the parts of a layer are whose first byte is at `start`, from the parts' lengths.
pub(crate) fn ranges(start: usize, [packed, scales, biases]: [usize; 3]) -> Quantized<Range<usize>> {
    let (scales_at, biases_at) = (start + packed, start + packed + scales);
    Quantized {
        packed: start..scales_at,
        scales: scales_at..biases_at,
        biases: biases_at..biases_at + biases,
    }
}

/// Layers in a file, mapped into memory.
#[derive(Debug)]
pub struct Spooled {
    map: Option<Mmap>,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
    /// Keeps its lock.
    _file: File,
}

impl Spooled {
    /// Maps a `file` at `place` with `layers` in it. The file has no name or is locked: nobody else changes it.
    pub(crate) fn map(
        place: &Path,
        file: File,
        layers: BTreeMap<String, Quantized<Range<usize>>>,
    ) -> Result<Self> {
        let mut map = None;
        if !layers.is_empty() {
            // SAFETY: nobody else changes the file.
            map = Some(unsafe { Mmap::map(&file) }.map_err(|e| Error::io(place, e))?);
        }
        Ok(Self { map, layers, _file: file })
    }

    /// Tells the kernel that `part` of a layer was read and need not stay mapped, so that resident memory does not grow
    /// with the model.
    pub fn release(&self, part: &[u8]) {
        if let Some(map) = &self.map {
            let start = (part.as_ptr() as usize).saturating_sub(map.as_ptr() as usize);
            crate::system::release_pages(map, start, start + part.len());
        }
    }

    /// Returns the bytes of a layer's tensor by its name, if the layer was added.
    pub fn tensor(&self, name: &str) -> Option<&[u8]> {
        let (path, part) = name.rsplit_once('.')?;
        let layer = self.get(path)?;
        match part {
            "weight" => Some(layer.packed),
            "scales" => Some(layer.scales),
            "biases" => Some(layer.biases),
            _ => None,
        }
    }

    /// Returns the layer at `path`, if it was added.
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
        assert_eq!(spooled.tensor("b.scales"), Some(&layer(1).scales[..]));
        assert_eq!((spooled.tensor("b.bias"), spooled.tensor("c.weight")), (None, None));
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
