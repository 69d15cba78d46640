//! Places of tensors in their files.

use crate::numerics::dtype::Dtype;

/// Place of a tensor: one or more pieces of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// One piece, or several for a tensor that was stacked.
    pub(crate) pieces: Vec<Piece>,
    /// Bytes of each piece.
    pub(crate) each: usize,
    /// Names of the pieces in their files, where tensors were stacked.
    pub(crate) parts: Vec<String>,
}

impl Entry {
    /// Makes the entry of a tensor from byte `start` to `end` of a file.
    pub(crate) fn new(file: usize, dtype: Dtype, shape: Vec<usize>, [start, end]: [usize; 2]) -> Self {
        Self { dtype, shape, pieces: vec![Piece { file, start }], each: end - start, parts: Vec::new() }
    }
}

/// Place where a part of a tensor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: usize,
    pub(crate) start: usize,
}
