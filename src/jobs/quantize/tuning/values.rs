//! Values of tensors that are being tuned, as they will be stored.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::formats::checkpoint::Tensor;
use crate::formats::writer::{OutputTensor, Produce, Sink};
use crate::numerics::affine::FloatType;
use crate::numerics::dtype::{Dtype, push_f32};

/// Values of tensors, row-major, by the tensors' names.
pub type Values = BTreeMap<String, Vec<f32>>;

/// Returns the `values` as they will be read back once they are stored, each tensor in its own type.
pub fn as_stored(values: &Values, dtypes: &BTreeMap<String, FloatType>) -> Values {
    let mut stored = values.clone();
    for (name, values) in &mut stored {
        if let Some(dtype) = dtypes.get(name) {
            dtype.round_all(values);
        }
    }
    stored
}

/// A tensor of a model, with other values than it has there.
pub struct TunedTensor<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    values: &'a [f32],
}

impl<'a> TunedTensor<'a> {
    /// Puts `values` in the place of those of `tensor`; type and shape stay.
    pub fn new(name: &str, tensor: &Tensor<'_>, values: &'a [f32]) -> Self {
        Self { name: name.to_owned(), dtype: tensor.dtype, shape: tensor.shape.to_vec(), values }
    }
}

impl Produce for TunedTensor<'_> {
    fn outputs(&self) -> Vec<OutputTensor> {
        vec![OutputTensor { name: self.name.clone(), dtype: self.dtype, shape: self.shape.clone() }]
    }

    fn chunks(&self) -> usize {
        1
    }

    fn produce(&self, _: usize, sink: &mut Sink<'_>) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.values.len() * self.dtype.size());
        push_f32(self.values, self.dtype, &mut bytes);
        sink(0, 0, &bytes)
    }
}
