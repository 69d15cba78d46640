//! Tensors apart from the checkpoint that they are stored in: what other tensors are made of.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::backing::WeightFile;
use super::checkpoint::{Checkpoint, Tensor};
use super::entry::Entry;
use crate::error::Error;
use crate::numerics::dtype::{Dtype, extend_f32};

/// Tensor of a checkpoint, with the files that it lies in.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) entry: Entry,
    files: Vec<Arc<WeightFile>>,
}

impl Stored {
    /// Makes a tensor that no checkpoint has, of one piece of `file`.
    pub(crate) fn new(name: &str, mut entry: Entry, file: &Arc<WeightFile>) -> Self {
        entry.pieces.iter_mut().for_each(|piece| piece.file = 0);
        Self { name: name.to_owned(), entry, files: vec![Arc::clone(file)] }
    }

    /// Takes the tensor `name` of `checkpoint`.
    pub(crate) fn of(checkpoint: &Checkpoint, name: &str) -> Option<Self> {
        let mut entry = checkpoint.entries.get(name)?.clone();
        let mut numbers: Vec<usize> = Vec::new();
        for piece in &mut entry.pieces {
            let known = numbers.iter().position(|number| *number == piece.file);
            let place = known.unwrap_or_else(|| {
                numbers.push(piece.file);
                numbers.len() - 1
            });
            piece.file = place;
        }
        let files = numbers.iter().map(|&number| Arc::clone(&checkpoint.files[number])).collect();
        Some(Self { name: name.to_owned(), entry, files })
    }

    pub(crate) fn tensor(&self) -> Tensor<'_> {
        Tensor::new(&self.entry, &self.files)
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    pub(crate) fn path(&self) -> &Path {
        self.tensor().file
    }

    pub(crate) fn len(&self) -> usize {
        self.tensor().len()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.tensor().byte_len()
    }

    /// Returns the bytes of the elements in `range`.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        let size = self.dtype().size();
        self.tensor().slice(range.start * size, range.end * size)
    }

    /// Returns the bytes of all elements.
    pub(crate) fn all_bytes(&self) -> Cow<'_, [u8]> {
        self.bytes(0..self.len())
    }

    /// Returns the elements in `range` as float32.
    pub(crate) fn values(&self, range: Range<usize>) -> Vec<f32> {
        let mut values = Vec::with_capacity(range.len());
        extend_f32(self.dtype(), &self.bytes(range.clone()), &mut values);
        self.release(range);
        values
    }

    /// Returns all elements as float32.
    pub(crate) fn all_values(&self) -> Vec<f32> {
        self.values(0..self.len())
    }

    /// Returns the 32-bit words of `range`.
    pub(crate) fn words(&self, range: Range<usize>) -> Vec<u32> {
        let words = self.bytes(range.clone()).as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        self.release(range);
        words
    }

    /// Tells the kernel that the elements in `range` were read.
    pub(crate) fn release(&self, range: Range<usize>) {
        let size = self.dtype().size();
        self.tensor().release(range.start * size, range.end * size);
    }

    /// Makes an error about this tensor.
    pub(crate) fn error(&self, message: impl Into<String>) -> Error {
        Error::tensor(self.path(), &self.name, message)
    }
}
