//! Values of tensors that are being tuned, as they will be stored.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::formats::checkpoint::Tensor;
use crate::formats::writer::{OutputTensor, Produce, Sink};
use crate::numerics::affine::FloatType;
use crate::numerics::dtype::{Dtype, push_f32};
use crate::numerics::latent::pack_latents;
use crate::numerics::quant::Quant;

/// Values of tensors, row-major, by the tensors' names.
pub type Values = BTreeMap<String, Vec<f32>>;

/// Values that are being tuned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Values of float tensors: scales, biases and norms.
    pub floats: Values,
    /// Latent codes, in steps of one code, by the names of the tensors of packed codes.
    pub latents: Values,
}

/// Values as they are stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    /// Values of float tensors, each rounded to its own type.
    pub floats: Values,
    /// Packed codes.
    pub codes: BTreeMap<String, Vec<u8>>,
}

/// Forms that tensors are stored in, by their names.
#[derive(Debug, Clone, Default)]
pub struct Forms {
    /// Types of float tensors.
    pub dtypes: BTreeMap<String, FloatType>,
    /// Settings of the layers whose codes learn.
    pub codes: BTreeMap<String, Quant>,
}

impl Forms {
    /// Returns float `values` as they will be read back once they are stored.
    pub fn stored_floats(&self, values: &Values) -> Values {
        let mut stored = values.clone();
        for (name, values) in &mut stored {
            if let Some(dtype) = self.dtypes.get(name) {
                dtype.round_all(values);
            }
        }
        stored
    }

    /// Returns the codes nearest to `latents`, packed.
    pub fn stored_codes(&self, latents: &Values) -> BTreeMap<String, Vec<u8>> {
        let codes = self.codes.iter().filter_map(|(name, &quant)| Some((name, latents.get(name)?, quant)));
        codes.map(|(name, latents, quant)| (name.clone(), pack_latents(latents, quant))).collect()
    }
}

/// A tensor of a model, with other values than it has there.
pub struct TunedTensor<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    values: TunedValues<'a>,
}

/// New values of a tensor.
pub enum TunedValues<'a> {
    /// Numbers, which are stored in the tensor's type.
    Floats(&'a [f32]),
    /// Bytes as they are stored.
    Stored(&'a [u8]),
}

impl<'a> TunedTensor<'a> {
    /// Puts `values` in the place of those of `tensor`; type and shape stay.
    pub fn new(name: &str, tensor: &Tensor<'_>, values: TunedValues<'a>) -> Self {
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
        match self.values {
            TunedValues::Stored(bytes) => sink(0, 0, bytes),
            TunedValues::Floats(values) => {
                let mut bytes = Vec::with_capacity(values.len() * self.dtype.size());
                push_f32(values, self.dtype, &mut bytes);
                sink(0, 0, &bytes)
            }
        }
    }
}
