//! A reference's log-probabilities in a file, to score many models against one run of it.
//!
//! A safetensors file with `log_probs`, float16 [predicted tokens, vocabulary], natural logarithms, and `tokens`, int32
//! [windows, length]. Float16 keeps log-probabilities between -16 and -8 to 0.004; the rows are normalised again when
//! read, and the mean KL divergence moves by a few millionths.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::files::gguf::is_gguf;
use crate::files::model_files::is_pack;
use crate::files::output_file::NewFolders;
use crate::files::{lfs_pointer, output_file};
use crate::formats::checkpoint::Checkpoint;
use crate::numerics::dtype::{Dtype, extend_f32};
use crate::numerics::lanes;

/// Writer of a reference file, row after row; the file appears when it is finished.
#[derive(Debug)]
pub struct ReferenceWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    vocabulary: usize,
    rows: usize,
    tokens: Vec<u8>,
    /// Removed after the file in them, where that is not finished.
    _folders: NewFolders,
}

impl ReferenceWriter {
    /// Starts the file for `windows` of one length.
    pub fn create(path: &Path, windows: &[Vec<u32>], vocabulary: usize) -> Result<Self> {
        output_file::only_files(path)?;
        let folders = NewFolders::above(path)?;
        let file = output_file::new_beside(path)?;
        let length = windows.first().map_or(0, Vec::len);
        let rows = windows.len() * length.saturating_sub(1);
        let bytes = rows * vocabulary * size_of::<f16>();
        let tokens: Vec<u8> = windows.iter().flatten().flat_map(|token| token.to_le_bytes()).collect();
        let mut header = json!({
            "__metadata__": { "format": "mixbit reference", "version": "1" },
            "log_probs": { "dtype": "F16", "shape": [rows, vocabulary], "data_offsets": [0, bytes] },
            "tokens": { "dtype": "I32", "shape": [windows.len(), length],
                        "data_offsets": [bytes, bytes + tokens.len()] },
        })
        .to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let (path, file) = (path.to_owned(), BufWriter::new(file));
        let mut writer = Self { path, file, vocabulary, rows, tokens, _folders: folders };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(header.as_bytes())?;
        Ok(writer)
    }

    /// Adds rows of logits [rows, vocabulary].
    pub fn add(&mut self, logits: &[f32]) -> Result<()> {
        let mut values = vec![f16::ZERO; logits.len()];
        let rows = values.par_chunks_mut(self.vocabulary).zip(logits.par_chunks(self.vocabulary));
        rows.for_each(|(values, logits)| {
            let row = crate::numerics::divergence::Row::new(logits);
            let shift = row.largest + row.log_sum as f32;
            let log_probs: Vec<f32> = logits.iter().map(|x| (x - shift).max(f32::from(f16::MIN))).collect();
            values.convert_from_f32_slice(&log_probs);
        });
        self.rows = self.rows.saturating_sub(logits.len() / self.vocabulary.max(1));
        self.write(bytemuck::cast_slice(&values))
    }

    /// Ends the file and moves it to its place.
    pub fn finish(mut self) -> Result<()> {
        debug_assert_eq!(self.rows, 0, "as many rows as were announced");
        let tokens = std::mem::take(&mut self.tokens);
        self.write(&tokens)?;
        let file = self.file.into_inner().map_err(|e| Error::io(&self.path, e.into_error()))?;
        file.as_file().sync_all().map_err(|e| Error::io(&self.path, e))?;
        file.persist(&self.path).map_err(|e| Error::io(&self.path, e.error))?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.path, e))
    }
}

const AGAIN: &str = "write it again with `mixbit eval --reference MODEL --save-reference FILE`";

/// A saved reference, mapped.
#[derive(Debug)]
pub struct Reference {
    checkpoint: Checkpoint,
    vocabulary: usize,
    /// Token windows that the reference was computed on, of one length.
    pub windows: Vec<Vec<u32>>,
}

impl Reference {
    /// True if `path` is a file that is neither a pack nor a GGUF, which only a saved reference can be.
    pub fn is_file(path: &Path) -> bool {
        path.is_file() && !is_pack(path) && !is_gguf(path)
    }

    /// Opens a file that [`ReferenceWriter`] wrote, under any name.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = || {
            Error::file(path, "not a reference that was kept with --save-reference")
                .hint("give a model folder, or a file that `mixbit eval --save-reference` wrote")
        };
        if !may_be_safetensors(path)? {
            return Err(bad());
        }
        let checkpoint = Checkpoint::open_safetensors(path).map_err(|e| e.hint(AGAIN))?;
        let (log_probs, tokens) = (checkpoint.get("log_probs"), checkpoint.get("tokens"));
        let (Some(log_probs), Some(tokens)) = (log_probs, tokens) else { return Err(bad()) };
        let (&[rows, vocabulary], &[count, length]) = (log_probs.shape, tokens.shape) else {
            return Err(bad());
        };
        let has_types = log_probs.dtype == Dtype::F16 && tokens.dtype == Dtype::I32;
        if !has_types || length < 2 || rows != count * (length - 1) {
            return Err(bad());
        }
        let bytes = tokens.bytes();
        let ids = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let ids: Vec<u32> = ids.collect();
        let windows = ids.chunks(length).map(<[u32]>::to_vec).collect();
        Ok(Self { checkpoint, vocabulary, windows })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    /// Returns the number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns log-probabilities [to - from, vocabulary] of the predicting positions `from..to` of a window.
    ///
    /// # Errors
    /// When the probabilities of a position do not add up to 1.
    pub fn log_probs(&self, window: usize, from: usize, to: usize) -> Result<Vec<f32>> {
        // Float16 moves each probability by a few thousandths.
        const NEAR_ONE: std::ops::RangeInclusive<f64> = 0.98..=1.02;
        let mut values = Vec::new();
        let first = window * self.windows.first().map_or(0, |window| window.len() - 1);
        if let Some(tensor) = self.checkpoint.get("log_probs") {
            let row = self.vocabulary * size_of::<f16>();
            extend_f32(tensor.dtype, &tensor.slice((first + from) * row, (first + to) * row), &mut values);
        }
        let sums = values.chunks(self.vocabulary.max(1)).map(|row| lanes::sum_of_exponentials(row, 0.0));
        // Values that are not finite are reported where they are scored.
        let wrong = sums.enumerate().find(|(_, sum)| sum.is_finite() && !NEAR_ONE.contains(sum));
        match wrong {
            Some((row, sum)) => Err(Error::tensor(
                self.path(),
                "log_probs",
                format!("the probabilities of row {} add up to {sum:.3}, not 1", first + from + row),
            )
            .hint(AGAIN)),
            None => Ok(values),
        }
    }
}

/// True if the file begins as safetensors do, with the length of the header and the header, or is empty. A pointer of
/// Git LFS is refused.
fn may_be_safetensors(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(1024).read_to_end(&mut start).map_err(|e| Error::io(path, e))?;
    lfs_pointer::refuse(path, &start)?;
    Ok(start.is_empty() || start.get(8) == Some(&b'{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_survive_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("reference.of-any-name");
        let windows = vec![vec![1, 2, 0], vec![2, 1, 1]];
        let mut writer = ReferenceWriter::create(&path, &windows, 3).unwrap();
        let logits: Vec<f32> = (0..12u8).map(|i| f32::from(i % 5)).collect();
        writer.add(&logits[..6]).unwrap();
        writer.add(&logits[6..]).unwrap();
        writer.finish().unwrap();
        let reference = Reference::open(&path).unwrap();
        assert_eq!((reference.windows.clone(), reference.vocabulary()), (windows, 3));
        let log_probs = reference.log_probs(1, 1, 2).unwrap();
        assert!(crate::numerics::divergence::kl_divergences(&logits[9..], &log_probs, 3)[0] < 1e-6);
        assert!((log_probs.iter().map(|x| x.exp()).sum::<f32>() - 1.0).abs() < 1e-3);
        assert!(Reference::open(&home.path().join("none")).is_err());
        drop(reference);
        let bytes = std::fs::read(&path).unwrap();
        let mut louder = bytes.clone();
        let last_row = bytes.len() - 6 * size_of::<i32>() - 3 * size_of::<f16>();
        louder[last_row..last_row + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        std::fs::write(&path, &louder).unwrap();
        let error = Reference::open(&path).unwrap().log_probs(1, 0, 2).unwrap_err().to_string();
        assert!(error.contains("log_probs") && error.contains("row 3 add up to"), "{error}");
        for (length, expected) in
            [(bytes.len() - 1, "not a whole"), (60, "not a whole"), (0, "is empty"), (5, "not a ref")]
        {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = Reference::open(&path).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with(&format!("{}: {expected}", path.display())), "{message}");
            assert!(error.hint_text().unwrap().contains("--save-reference"), "{error:?}");
        }
    }
}
