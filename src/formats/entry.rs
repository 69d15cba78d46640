//! Places of tensors in their files.

use super::gather::Gather;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// Place of a tensor: one or more pieces of files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// One piece, or several for a tensor that was stacked.
    pub(crate) pieces: Vec<Piece>,
    /// Bytes of each piece, as they are read.
    pub(crate) each: usize,
    /// Names of the pieces in their files, where tensors were stacked or are made of others.
    pub(crate) parts: Vec<String>,
    /// Order and change of each piece's values, where its bytes are not those of the file.
    pub(crate) gather: Option<Gather>,
    /// Form that the values came in, of a layer's weight.
    pub(crate) incoming: Option<Incoming>,
}

/// Form of another tool that a layer came in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incoming {
    /// Name of the form, as tables have it.
    pub form: &'static str,
    /// Setting of MLX that has the same numbers, where the layer is quantized; `None` where its values are decoded.
    pub quant: Option<Quant>,
    /// Bytes of the layer in its form for each of its values.
    pub bytes_per_value: f64,
}

impl Entry {
    /// Makes the entry of a tensor from byte `start` to `end` of a file.
    pub(crate) fn new(file: usize, dtype: Dtype, shape: Vec<usize>, [start, end]: [usize; 2]) -> Self {
        Self {
            dtype,
            shape,
            pieces: vec![Piece { file, start }],
            each: end - start,
            parts: Vec::new(),
            gather: None,
            incoming: None,
        }
    }
}

/// Place where a part of a tensor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: usize,
    pub(crate) start: usize,
}
