//! Journal of unfinished work on layers: those that GPTQ has rounded, or whose codes have learned block by block, each with its
//! codes, scales and biases.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::journal::{Header, Journal, Start, damaged};
use crate::files::output_file;
use crate::jobs::record::GptqStats;
use crate::jobs::write::{Spooled, parts, ranges};
use crate::numerics::affine::Quantized;

/// Name of the setting that says which bits layers get.
pub const BITS: &str = "what layers become";

/// Name of the setting that says which text layers were rounded on.
pub const TEXT: &str = "the calibration text";

/// A layer in the journal, before its codes, scales and biases.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    rows: usize,
    searched_rows: usize,
    experts: usize,
    few_tokens: Vec<usize>,
    /// Bytes of codes, scales and biases.
    bytes: [usize; 3],
}

impl Entry {
    /// True if the payload from `start` on has an end.
    fn is_possible(&self, start: usize) -> bool {
        self.bytes.iter().try_fold(start, |sum, bytes| sum.checked_add(*bytes)).is_some()
    }
}

/// A layer that was rounded with GPTQ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GptqLayer {
    /// Codes, scales and biases of the layer.
    pub quantized: Quantized,
    /// Rows that are as scale search left them.
    pub searched_rows: usize,
    /// Experts whose matrices these are; 0 for a matrix that is of no expert.
    pub experts: usize,
    /// Experts that saw too few tokens and are as scale search left them, by number.
    pub few_tokens: Vec<usize>,
}

/// Journal of layers that are rounded or have learned, to which more are appended.
#[derive(Debug)]
pub struct LayerJournal {
    path: PathBuf,
    journal: Journal,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
    stats: GptqStats,
}

impl LayerJournal {
    /// Path of the journal while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".rounding")
    }

    /// Path of the journal of a round of refinement until the round is known to be better.
    pub fn next_path(output: &Path) -> PathBuf {
        output_file::beside(output, ".rounding-next")
    }

    /// Path of the journal of the layers whose codes learn block by block.
    pub fn blocks_path(output: &Path) -> PathBuf {
        output_file::beside(output, ".blocks")
    }

    /// Opens the journal at `path`.
    pub fn open(path: &Path, header: &Header, start: Start) -> Result<Self> {
        let (journal, entries) = Journal::open::<Entry>(path, header, start)?;
        let (layers, stats) = (BTreeMap::new(), GptqStats::default());
        let mut opened = Self { path: path.to_owned(), journal, layers, stats };
        for entry in entries {
            if !entry.value.is_possible(entry.start) {
                return Err(damaged(path));
            }
            opened.count(&entry.value, entry.start);
        }
        Ok(opened)
    }

    /// Returns the number of layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// True if there are no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// True if the layer at `path` is done.
    pub fn has(&self, path: &str) -> bool {
        self.layers.contains_key(path)
    }

    /// Reads the layer at `path`, which was there when the journal was opened or was flushed since.
    pub fn read(&self, path: &str) -> Result<Quantized> {
        let failed = |error| Error::io(&self.path, error);
        let ranges = self.layers.get(path).ok_or_else(|| damaged(&self.path))?;
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut part = |range: &Range<usize>| {
            let mut bytes = vec![0; range.len()];
            file.seek(SeekFrom::Start(range.start as u64)).map_err(failed)?;
            file.read_exact(&mut bytes).map_err(failed)?;
            Ok::<_, Error>(bytes)
        };
        Ok(Quantized {
            packed: part(&ranges.packed)?,
            scales: part(&ranges.scales)?,
            biases: part(&ranges.biases)?,
        })
    }

    /// Appends the layer at `path`, whose codes have learned.
    pub fn append_learned(&mut self, path: &str, quantized: &Quantized) -> Result<()> {
        let layer = GptqLayer { quantized: quantized.clone(), ..GptqLayer::default() };
        self.append(path, 0, &layer)
    }

    /// Appends the layer at `path`, of which GPTQ has rounded so many rows.
    pub fn append(&mut self, path: &str, rows: usize, layer: &GptqLayer) -> Result<()> {
        let GptqLayer { quantized, searched_rows, experts, few_tokens } = layer;
        let entry = Entry {
            path: path.to_owned(),
            rows,
            searched_rows: *searched_rows,
            experts: *experts,
            few_tokens: few_tokens.clone(),
            bytes: parts(quantized).map(<[u8]>::len),
        };
        let start = self.journal.append(&entry, &parts(quantized))?;
        self.count(&entry, start);
        Ok(())
    }

    fn count(&mut self, entry: &Entry, start: usize) {
        self.layers.insert(entry.path.clone(), ranges(start, entry.bytes));
        self.stats.add(&entry.path, entry.rows, entry.searched_rows);
        self.stats.add_experts(&entry.path, entry.experts, &entry.few_tokens);
    }

    /// Hands what was appended to the system, so that a kill does not lose it.
    pub fn flush(&mut self) -> Result<()> {
        self.journal.flush()
    }

    /// Returns what to tell where layers of an earlier run were damaged.
    pub fn damage_note(&self) -> Option<String> {
        self.journal.damage_note()
    }

    /// Removes a journal without layers.
    pub fn remove_if_empty(&self) {
        self.journal.remove_if_empty();
    }

    /// Adds to an interruption a hint how to resume.
    pub fn with_resume_hint(&self, error: Error) -> Error {
        self.journal.with_resume_hint(error, "layer")
    }

    /// Ends appending: from here on layers are read. The file stays.
    pub fn seal(self) -> Result<(Spooled, GptqStats)> {
        let file = self.journal.into_file()?;
        Ok((Spooled::map(&self.path, file, self.layers)?, self.stats))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> GptqLayer {
        let quantized = Quantized { packed: vec![n; 12], scales: vec![n + 1; 4], biases: vec![b'\n'; 4] };
        GptqLayer { quantized, searched_rows: n.into(), experts: 4, few_tokens: vec![2; n.into()] }
    }

    #[test]
    fn resumed_layers_are_as_they_were() {
        let home = tempfile::tempdir().unwrap();
        let path = LayerJournal::path(&home.path().join("out/"));
        assert_eq!(path, home.path().join("out.rounding"));
        let header = Header::new("rounding");
        let mut journal = LayerJournal::open(&path, &header, Start::Anew).unwrap();
        journal.append("a", 3, &layer(1)).unwrap();
        journal.flush().unwrap();
        drop(journal);
        let mut journal = LayerJournal::open(&path, &header, Start::Resumed).unwrap();
        assert_eq!((journal.len(), journal.has("a"), journal.has("b")), (1, true, false));
        assert_eq!(journal.read("a").unwrap(), layer(1).quantized);
        assert!(journal.read("b").is_err());
        journal.append("b", 3, &layer(0)).unwrap();
        let (spooled, stats) = journal.seal().unwrap();
        assert_eq!(spooled.get("a"), Some(layer(1).quantized.as_slices()));
        assert_eq!(spooled.get("b"), Some(layer(0).quantized.as_slices()));
        assert_eq!((stats.rows, stats.searched_rows.get("a")), (6, Some(&1)));
        assert_eq!((stats.searched_rows.len(), &stats.few_tokens["a"]), (1, &vec![2]));
        assert!(path.exists() && LayerJournal::open(&path, &header, Start::Resumed).is_err(), "locked");
    }
}
