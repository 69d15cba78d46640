//! The layers that an unfinished rounding has done, in a file beside the output, so that an interrupted run goes on after
//! them.
//!
//! A line of JSON with the settings; then for each layer a line of JSON, and its codes, scales and biases. The file only
//! grows: what a kill cut off at its end is done again.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::digest::digest;
use crate::files::journal::{Setting, begun_otherwise, fingerprint};
use crate::files::output_file;
use crate::jobs::record::Feedback;
use crate::jobs::write::{Spool, Spooled};
use crate::numerics::affine::Quantized;
use crate::words::count;

/// What layers are rounded with. What was done with other settings is not to be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of mixbit.
    pub mixbit: String,
    /// Fingerprint of the float model.
    pub model: String,
    /// What was asked for: the size, for people.
    pub target: String,
    /// Number of sequences.
    pub samples: usize,
    /// Tokens in each.
    pub sequence_length: usize,
    /// Seed of their choice.
    pub seed: u64,
    /// SHA-256 of the sequences.
    pub text: String,
    /// Type of scales and biases.
    pub dtype: String,
    /// SHA-256 of the bit map.
    pub bits: String,
}

impl Settings {
    /// By name, for messages.
    fn named(&self) -> Vec<Setting> {
        vec![
            ("mixbit's version", self.mixbit.clone()),
            ("the model", fingerprint(&self.model)),
            ("the target", self.target.clone()),
            ("--samples", self.samples.to_string()),
            ("--sequence-length", self.sequence_length.to_string()),
            ("--seed", self.seed.to_string()),
            ("the calibration text", fingerprint(&self.text)),
            ("--dtype", self.dtype.clone()),
            ("what layers become", fingerprint(&self.bits)),
        ]
    }
}

/// The line before a layer's codes, scales and biases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: String,
    rows: usize,
    searched_rows: usize,
    #[serde(default)]
    experts: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    few_tokens: Vec<usize>,
    /// Bytes of codes, scales and biases.
    bytes: [usize; 3],
    sha256: String,
}

/// A layer that was rounded with error feedback.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FedBack {
    /// Its codes, scales and biases.
    pub quantized: Quantized,
    /// Rows that are as scale search left them.
    pub searched_rows: usize,
    /// Experts whose matrices these are; 0 for one that is of no expert.
    pub experts: usize,
    /// Experts that saw too few tokens and are as scale search left them, by number.
    pub few_tokens: Vec<usize>,
}

/// Layers that are done, in a file that takes more.
#[derive(Debug)]
pub struct KeptLayers {
    /// None for a file without a name.
    path: Option<PathBuf>,
    spool: Spool,
    found: BTreeMap<String, Quantized<Range<usize>>>,
    feedback: Feedback,
}

impl KeptLayers {
    /// Where they are kept while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".rounding")
    }

    /// Where those of the next round of refinement are kept until it is known to be better.
    pub fn next_path(output: &Path) -> PathBuf {
        output_file::beside(output, ".rounding-next")
    }

    /// What the file at `path` was begun with, where there is such a file.
    pub fn begun(path: &Path) -> Option<Settings> {
        let mut line = Vec::new();
        BufReader::new(File::open(path).ok()?).read_until(b'\n', &mut line).ok()?;
        serde_json::from_slice(&line).ok()
    }

    /// In a file without a name in `folder`, gone when it is dropped.
    pub fn unnamed(folder: &Path) -> Result<Self> {
        let (spool, found) = (Spool::create(folder)?, BTreeMap::new());
        Ok(Self { path: None, spool, found, feedback: Feedback::default() })
    }

    /// Starts the file at `path` anew, or goes on with it if `resume` is set and it was made with the same settings.
    pub fn open(path: &Path, settings: &Settings, resume: bool) -> Result<Self> {
        output_file::only_files(path)?;
        let failed = |e| Error::io(path, e);
        let there = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        if let Some(file) = &there {
            lock(path, file)?;
        }
        let mut kept = Found::default();
        let mut file = match there {
            Some(file) if resume => {
                kept = Found::read(path, &file, settings)?;
                file.set_len(kept.length as u64).map_err(failed)?;
                file
            }
            there => {
                if there.is_some() {
                    fs::remove_file(path).map_err(failed)?;
                }
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
                let file = file.map_err(failed)?;
                lock(path, &file)?;
                file
            }
        };
        file.seek(SeekFrom::Start(kept.length as u64)).map_err(failed)?;
        let Found { length, layers: found, feedback } = kept;
        let mut spool = Spool::go_on(path, file, length, found.clone());
        if length == 0 {
            spool.line(settings)?;
            spool.flush()?;
        }
        Ok(Self { path: Some(path.to_owned()), spool, found, feedback })
    }

    /// Whether there are layers at `path` that an unfinished run has done; with `settings`, other than for the bit map, or
    /// with whatever.
    ///
    /// # Errors
    /// When another run is at it, or it was begun with other settings.
    pub fn wait(path: &Path, settings: Option<&Settings>) -> Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io(path, e)),
        };
        output_file::only_files(path)?;
        lock(path, &file)?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let mut line = Vec::new();
        let head = BufReader::new(file).read_until(b'\n', &mut line).map_err(|e| Error::io(path, e))?;
        if let (Some(settings), true) = (settings, line.ends_with(b"\n")) {
            let was = begun(path, &line)?;
            let now = Settings { bits: was.bits.clone(), ..settings.clone() };
            if was != now {
                return Err(begun_otherwise(path, &was.named(), &now.named()));
            }
        }
        Ok(size > head as u64)
    }

    /// Layers that an earlier run has done.
    pub fn found(&self) -> usize {
        self.found.len()
    }

    /// Whether an earlier run has done the layer at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.found.contains_key(path)
    }

    /// The layer at `path`, if an earlier run has done it.
    pub fn read(&self, path: &str) -> Result<Option<Quantized>> {
        let (Some(file), Some(parts)) = (&self.path, self.found.get(path)) else { return Ok(None) };
        let failed = |e| Error::io(file, e);
        let mut opened = File::open(file).map_err(failed)?;
        let mut part = |range: &Range<usize>| -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; range.len()];
            opened.seek(SeekFrom::Start(range.start as u64))?;
            opened.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        let mut read = || -> io::Result<Quantized> {
            Ok(Quantized {
                packed: part(&parts.packed)?,
                scales: part(&parts.scales)?,
                biases: part(&parts.biases)?,
            })
        };
        read().map(Some).map_err(failed)
    }

    /// Adds the layer at `path`, which has so many rows.
    pub fn add(&mut self, path: &str, rows: usize, layer: &FedBack) -> Result<()> {
        let FedBack { quantized, searched_rows, experts, few_tokens } = layer;
        if self.path.is_some() {
            self.spool.line(&Entry {
                path: path.to_owned(),
                rows,
                searched_rows: *searched_rows,
                experts: *experts,
                few_tokens: few_tokens.clone(),
                bytes: [&quantized.packed, &quantized.scales, &quantized.biases].map(Vec::len),
                sha256: digest([&quantized.packed[..], &quantized.scales, &quantized.biases]),
            })?;
        }
        self.feedback.add(path, rows, *searched_rows);
        self.feedback.add_experts(path, *experts, few_tokens);
        self.spool.add(path, quantized)
    }

    /// Hands what was added to the system, so that a kill does not take it.
    pub fn flush(&mut self) -> Result<()> {
        self.spool.flush()
    }

    /// The hint for an interrupted run; nothing where nothing is done, and then the file goes.
    pub fn interrupted(&self) -> Option<String> {
        let path = self.path.as_deref()?;
        if self.spool.is_empty() {
            remove(path);
            return None;
        }
        Some(format!("the same command with --resume goes on after {}", count(self.spool.len(), "layer")))
    }

    /// Ends taking, and says how error feedback did.
    pub fn seal(self) -> Result<(Spooled, Feedback)> {
        Ok((self.spool.seal()?, self.feedback))
    }
}

/// Removes the file at `path`, if it is there.
pub fn remove(path: &Path) {
    // It is in nobody's way: the next run starts it anew.
    let _ = fs::remove_file(path);
}

fn lock(path: &Path, file: &File) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::file(path, "another run is writing it")
            .hint("wait until that is done, or choose another output")),
        // Some file systems have no locks.
        _ => Ok(()),
    }
}

/// The settings in a file's first line.
fn begun(path: &Path, line: &[u8]) -> Result<Settings> {
    serde_json::from_slice(line)
        .map_err(|_| Error::file(path, "does not begin like an unfinished rounding").hint(output_file::ANEW))
}

/// What a file holds, as far as it is whole.
#[derive(Default)]
struct Found {
    length: usize,
    layers: BTreeMap<String, Quantized<Range<usize>>>,
    feedback: Feedback,
}

impl Found {
    fn read(path: &Path, file: &File, settings: &Settings) -> Result<Self> {
        let failed = |e| Error::io(path, e);
        let mut found = Self::default();
        let size = file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        found.length = reader.read_until(b'\n', &mut line).map_err(failed)?;
        if !line.ends_with(b"\n") {
            return Ok(Self::default());
        }
        let was = begun(path, &line)?;
        if was != *settings {
            return Err(begun_otherwise(path, &was.named(), &settings.named()));
        }
        loop {
            line.clear();
            let head = reader.read_until(b'\n', &mut line).map_err(failed)?;
            let Ok(entry) = serde_json::from_slice::<Entry>(&line) else { return Ok(found) };
            let start = found.length + head;
            let end = entry.bytes.iter().try_fold(start, |sum, &bytes| sum.checked_add(bytes));
            let Some(end) = end.filter(|&end| line.ends_with(b"\n") && end as u64 <= size) else {
                return Ok(found);
            };
            let mut parts = entry.bytes.map(|bytes| vec![0; bytes]);
            for part in &mut parts {
                reader.read_exact(part).map_err(failed)?;
            }
            if digest(parts.iter().map(Vec::as_slice)) != entry.sha256 {
                return Ok(found);
            }
            found.add(&entry, start);
            found.length = end;
        }
    }

    fn add(&mut self, entry: &Entry, start: usize) {
        let [packed, scales, biases] = entry.bytes;
        let (scales_at, biases_at) = (start + packed, start + packed + scales);
        let parts = Quantized {
            packed: start..scales_at,
            scales: scales_at..biases_at,
            biases: biases_at..biases_at + biases,
        };
        self.layers.insert(entry.path.clone(), parts);
        self.feedback.add(&entry.path, entry.rows, entry.searched_rows);
        self.feedback.add_experts(&entry.path, entry.experts, &entry.few_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(samples: usize) -> Settings {
        let text = || "t".to_owned();
        Settings {
            mixbit: text(),
            model: text(),
            target: text(),
            samples,
            sequence_length: 8,
            seed: 1,
            text: text(),
            dtype: text(),
            bits: text(),
        }
    }

    fn layer(n: u8) -> FedBack {
        let quantized = Quantized { packed: vec![n; 12], scales: vec![n + 1; 4], biases: vec![b'\n'; 4] };
        FedBack { quantized, searched_rows: n.into(), experts: 4, few_tokens: vec![2; n.into()] }
    }

    /// A file with the layers `a` and `b`, and how long it was after `a`.
    fn two(path: &Path) -> u64 {
        let mut kept = KeptLayers::open(path, &settings(4), false).unwrap();
        kept.add("a", 3, &layer(1)).unwrap();
        kept.flush().unwrap();
        let length = fs::metadata(path).unwrap().len();
        kept.add("b", 3, &layer(0)).unwrap();
        kept.flush().unwrap();
        length
    }

    #[test]
    fn what_is_whole_is_gone_on_with() {
        let home = tempfile::tempdir().unwrap();
        let path = KeptLayers::path(&home.path().join("out/"));
        assert_eq!(path, home.path().join("out.rounding"));
        let after_first = two(&path);
        let whole = fs::read(&path).unwrap();
        for length in (0..=whole.len()).rev() {
            fs::write(&path, &whole[..length]).unwrap();
            let mut kept = KeptLayers::open(&path, &settings(4), true).unwrap();
            let expected = usize::from(length == whole.len()) + usize::from(length as u64 >= after_first);
            assert_eq!((kept.found(), kept.has("a")), (expected, expected > 0), "{length}");
            if expected == 1 {
                assert_eq!(kept.read("a").unwrap(), Some(layer(1).quantized));
                kept.add("b", 3, &layer(0)).unwrap();
                let (spooled, feedback) = kept.seal().unwrap();
                assert_eq!(spooled.get("a"), Some(layer(1).quantized.as_slices()));
                assert_eq!(spooled.get("b"), Some(layer(0).quantized.as_slices()));
                assert_eq!((feedback.rows, feedback.searched_rows.get("a")), (6, Some(&1)));
                assert_eq!(
                    (feedback.searched_rows.len(), &feedback.few_tokens["a"], feedback.experts.len()),
                    (1, &vec![2], 2)
                );
                assert!(fs::read(&path).unwrap() == whole);
            }
        }
        let mut damaged = whole;
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(KeptLayers::open(&path, &settings(4), true).unwrap().found(), 1);
    }

    #[test]
    fn other_settings_and_other_files_are_refused_and_stay() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        two(&path);
        let whole = fs::read(&path).unwrap();
        let error = KeptLayers::open(&path, &settings(5), true).unwrap_err().to_string();
        assert!(error.ends_with("with other settings: --samples was 4, now it is 5"), "{error}");
        assert!(fs::read(&path).unwrap() == whole);
        fs::write(&path, "something else\n").unwrap();
        let error = KeptLayers::open(&path, &settings(4), true).unwrap_err().to_string();
        assert!(error.ends_with("does not begin like an unfinished rounding"), "{error}");
        assert_eq!(KeptLayers::open(&path, &settings(4), false).unwrap().found(), 0);
    }

    #[test]
    fn nobody_writes_what_another_run_writes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.rounding");
        let kept = KeptLayers::open(&path, &settings(4), false).unwrap();
        for resume in [false, true] {
            let error = KeptLayers::open(&path, &settings(4), resume).unwrap_err().to_string();
            assert!(error.ends_with("another run is writing it"), "{error}");
        }
        assert_eq!(kept.interrupted(), None);
        assert!(!path.exists(), "nothing is done");
    }
}
