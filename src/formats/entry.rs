//! Where a tensor lies in its files.

use crate::numerics::dtype::Dtype;

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// One, but for tensors that were stacked.
    pub(crate) pieces: Vec<Piece>,
    /// Bytes of each piece.
    pub(crate) each: usize,
    /// What the pieces are called in their files, where tensors were stacked.
    pub(crate) parts: Vec<String>,
}

impl Entry {
    /// A tensor from byte `start` to `end` of a file.
    pub(crate) fn new(file: usize, dtype: Dtype, shape: Vec<usize>, [start, end]: [usize; 2]) -> Self {
        Self { dtype, shape, pieces: vec![Piece { file, start }], each: end - start, parts: Vec::new() }
    }
}

/// Where a part of a tensor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: usize,
    pub(crate) start: usize,
}
