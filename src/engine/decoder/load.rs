//! Tensors of a checked model folder as MLX arrays. Only layers that the bit map lists become quantized ones.

use mlx_rs::Array;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::interleaved::StoredMatrices;
use super::linear::{Linear, Weight, split_experts};
use crate::engine::array;
use crate::engine::array::Packed;
use crate::error::{Error, Result};
use crate::formats::checkpoint::Tensor;
use crate::models::bitmap::BitMap;
use crate::models::source::SourceModel;
use crate::models::spec::LinearSpec;
use crate::numerics::affine::{FloatType, QuantizeError};
use crate::numerics::dtype::{CastReport, Dtype, cast, widen_into};
use crate::numerics::latent::pack_latents;
use crate::numerics::nearest;
use crate::numerics::quant::{Mode, Quant};

/// Source bytes that one thread decodes at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Columns of matrices that are kept in 16 bits are whole numbers of these.
const HALVES_STEP: usize = 16;
/// Weights that one task handles, rounded up to whole rows.
pub(crate) const TASK: usize = 1 << 14;

/// Float layers to read as if they had been quantized.
#[derive(Debug, Clone)]
pub struct Rounding {
    /// The layers, with the quantization of each.
    pub bitmap: BitMap,
    /// Dtype of scales and biases.
    pub dtype: FloatType,
}

/// Values of tensors, row-major, by the tensors' names.
pub type Values = BTreeMap<String, Vec<f32>>;

/// Values that replace those in the files.
#[derive(Debug, Clone, Copy)]
pub struct Tuned<'a> {
    /// Values of float tensors by name.
    pub floats: &'a Values,
    /// Latent codes, by the names of the tensors of packed codes. The nearest codes are in force.
    pub latents: &'a Values,
}

/// Float16 and bfloat16 matrices of a model that is computed in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halves {
    /// Widened as they are loaded, for gradients.
    Widened,
    /// Kept, and widened as they are multiplied.
    Kept,
}

/// Reads a model's tensors as arrays in one compute dtype.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loader<'a> {
    pub(crate) source: &'a SourceModel,
    pub(crate) dtype: Dtype,
    pub(crate) rounding: Option<&'a Rounding>,
    pub(crate) tuned: Option<Tuned<'a>>,
    pub(crate) halves: Halves,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(source: &'a SourceModel, dtype: Dtype) -> Self {
        Self { source, dtype, rounding: None, tuned: None, halves: Halves::Widened }
    }

    /// Reads a float tensor in the compute dtype.
    pub(crate) fn float(&self, name: &str) -> Result<Array> {
        let tensor = self.source.tensor(name)?;
        if let Some(values) = self.tuned.and_then(|tuned| tuned.floats.get(name)) {
            let array = array::from_vec(values.clone(), tensor.shape);
            return Ok(array.as_dtype(array::mlx_dtype(self.dtype))?);
        }
        if self.dtype == Dtype::F32 {
            return array::filled(tensor.shape, |values| {
                decode_into(tensor, 0, values);
                Ok(())
            });
        }
        let mut bytes = Vec::new();
        let mut report = CastReport::default();
        for start in (0..tensor.byte_len()).step_by(CHUNK_BYTES) {
            let end = (start + CHUNK_BYTES).min(tensor.byte_len());
            report.merge(cast(tensor.dtype, &tensor.slice(start, end), self.dtype, &mut bytes));
            tensor.release(start, end);
        }
        if report.overflow {
            return Err(Error::tensor(
                tensor.file,
                name,
                format!("has values beyond the range of {}", self.dtype),
            )
            .hint("use setting `dtype` bfloat16 or float32"));
        }
        Ok(array::from_bytes(&bytes, self.dtype, tensor.shape))
    }

    /// Reads the matrix of the layer at `path`, quantized if the bit map lists it, in the order that is multiplied fastest
    /// where no gradients are wanted.
    pub(crate) fn weight(&self, path: &str) -> Result<Weight> {
        match self.interleaved(path, 1)?.and_then(|mut matrices| matrices.pop()) {
            Some(matrix) => Ok(matrix),
            None => self.stored_weight(path),
        }
    }

    /// Reads the matrix of the layer at `path`, or the matrices of its `count` experts, in the order that is multiplied fastest
    /// where no gradients are wanted; `None` where there is none.
    fn interleaved(&self, path: &str, count: usize) -> Result<Option<Vec<Weight>>> {
        let Some(&quant) = self.source.bitmap().get(path) else { return Ok(None) };
        let names = ["weight", "scales", "biases"].map(|part| format!("{path}.{part}"));
        let is_tuned = self.tuned.is_some_and(|Tuned { floats, latents }| {
            names.iter().any(|name| floats.contains_key(name) || latents.contains_key(name))
        });
        if quant.mode != Mode::Affine
            || self.halves == Halves::Widened
            || self.dtype != Dtype::F32
            || is_tuned
        {
            return Ok(None);
        }
        let [codes, scales, biases] = names.map(|name| self.source.tensor(&name));
        StoredMatrices { parts: [codes?, scales?, biases?], quant, count }.interleaved()
    }

    /// Reads the matrix of the layer at `path`, or of its experts, quantized if the bit map lists it.
    fn stored_weight(&self, path: &str) -> Result<Weight> {
        let Some(&quant) = self.source.bitmap().get(path) else {
            let name = format!("{path}.weight");
            let rounding =
                self.rounding.and_then(|rounding| Some((rounding.bitmap.get(path)?, rounding.dtype)));
            return Ok(match rounding {
                Some((&quant, dtype)) => Weight::Float(self.rounded(&name, quant, dtype)?),
                None if self.keeps_halves(&name)? => Weight::Halves(self.stored(&name)?),
                None => Weight::Float(self.float(&name)?),
            });
        };
        let codes = self.codes(&format!("{path}.weight"), quant)?;
        let (scales, biases) = match quant.mode {
            Mode::Affine => {
                (self.scales(&format!("{path}.scales"))?, Some(self.scales(&format!("{path}.biases"))?))
            }
            _ => (self.raw(&format!("{path}.scales"), Dtype::U8)?, None),
        };
        Ok(Weight::Quantized(Packed { codes, scales, biases, quant }))
    }

    /// Reads a linear layer, with its bias if it has one.
    pub(crate) fn linear(&self, spec: &LinearSpec) -> Result<Linear> {
        let bias = if spec.bias { Some(self.float(&format!("{}.bias", spec.path))?) } else { None };
        Ok(Linear { path: spec.path.as_str().into(), tap: spec.tap, weight: self.weight(&spec.path)?, bias })
    }

    /// Reads a linear layer, or those of each expert.
    pub(crate) fn linears(&self, spec: &LinearSpec) -> Result<Vec<Linear>> {
        let Some(count) = spec.experts else { return Ok(vec![self.linear(spec)?]) };
        let (path, tap) = (Arc::<str>::from(spec.path.as_str()), spec.tap);
        let weights = match self.interleaved(&spec.path, count)? {
            Some(matrices) => matrices,
            None => self.stored_weight(&spec.path)?.split_experts(count)?,
        };
        let biases = if spec.bias {
            split_experts(&self.float(&format!("{}.bias", spec.path))?, count)?
        } else {
            Vec::new()
        };
        let mut biases = biases.into_iter();
        let linear = |weight| Linear { path: Arc::clone(&path), tap, weight, bias: biases.next() };
        Ok(weights.into_iter().map(linear).collect())
    }

    /// Reads a float matrix, quantizes it to nearest and decodes it again.
    fn rounded(&self, name: &str, quant: Quant, dtype: FloatType) -> Result<Array> {
        let tensor = self.source.tensor(name)?;
        let columns = tensor.columns();
        let failed = |e: QuantizeError| Error::tensor(tensor.file, name, e.to_string());
        let weights = load_changed(tensor, |_, weights, errors| {
            nearest::rounding_error_into(weights, columns, quant, dtype, errors).map_err(failed)
        })?;
        Ok(weights.as_dtype(array::mlx_dtype(self.dtype))?)
    }

    /// Returns true if the matrix `name` is kept in 16 bits.
    fn keeps_halves(&self, name: &str) -> Result<bool> {
        let tensor = self.source.tensor(name)?;
        Ok(self.halves == Halves::Kept
            && self.dtype == Dtype::F32
            && matches!(tensor.dtype, Dtype::F16 | Dtype::BF16)
            && tensor.columns() % HALVES_STEP == 0)
    }

    /// Reads scales or biases: as they are stored where the engine widens them, else in the compute dtype.
    fn scales(&self, name: &str) -> Result<Array> {
        let is_half = matches!(self.source.tensor(name)?.dtype, Dtype::F16 | Dtype::BF16);
        let is_tuned = self.tuned.is_some_and(|tuned| tuned.floats.contains_key(name));
        if self.halves == Halves::Kept && self.dtype == Dtype::F32 && is_half && !is_tuned {
            return self.stored(name);
        }
        self.float(name)
    }

    /// Reads packed codes, or packs those nearest to latent ones.
    fn codes(&self, name: &str, quant: Quant) -> Result<Array> {
        let Some(latents) = self.tuned.and_then(|tuned| tuned.latents.get(name)) else {
            return self.raw(name, Dtype::U32);
        };
        let packed = pack_latents(latents, quant);
        Ok(array::from_bytes(&packed, Dtype::U32, self.source.tensor(name)?.shape))
    }

    fn raw(&self, name: &str, dtype: Dtype) -> Result<Array> {
        let tensor = self.source.tensor(name)?;
        if tensor.dtype != dtype {
            return Err(Error::tensor(tensor.file, name, format!("is {}, expected {dtype}", tensor.dtype)));
        }
        self.stored(name)
    }

    /// Reads a tensor in its own dtype.
    fn stored(&self, name: &str) -> Result<Array> {
        let tensor = self.source.tensor(name)?;
        let dtype = tensor.dtype;
        array::filled_bytes(dtype, tensor.shape, |bytes| {
            for (chunk, bytes) in bytes.chunks_mut(CHUNK_BYTES).enumerate() {
                let start = chunk * CHUNK_BYTES;
                bytes.copy_from_slice(&tensor.slice(start, start + bytes.len()));
                tensor.release(start, start + bytes.len());
            }
            Ok(())
        })
    }
}

/// Reads a matrix and adds the changes that `changes` writes for blocks of whole rows; it is called with the first
/// row's number, the rows' weights and a buffer of zeros for the changes.
pub(crate) fn load_changed<E: Send>(
    tensor: Tensor<'_>,
    changes: impl Fn(usize, &[f32], &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Array, E> {
    let columns = tensor.columns();
    let step = chunk_weights([tensor.len() / columns, columns]);
    array::filled(tensor.shape, |weights| {
        weights.par_chunks_mut(step).enumerate().try_for_each_init(Vec::new, |errors, (chunk, weights)| {
            decode_rows(tensor, chunk * step, weights);
            errors.resize(weights.len(), 0.0f32);
            changes(chunk * step / columns, weights, errors)?;
            weights.iter_mut().zip(errors).for_each(|(weight, error)| *weight += *error);
            Ok(())
        })
    })
}

/// Returns the weights of one task: whole rows.
pub(crate) const fn task_weights(columns: usize) -> usize {
    TASK.div_ceil(columns) * columns
}

/// Returns the weights of the tasks that one thread decodes in one go: many where the matrix has many, as pages at
/// their ends stay mapped.
pub(crate) fn chunk_weights([rows, columns]: [usize; 2]) -> usize {
    let tasks = (rows * columns).div_ceil(task_weights(columns));
    task_weights(columns) * (tasks / 16).clamp(1, 8)
}

/// Reads the values number `part` of a tensor as float32.
pub(crate) fn decode_part(tensor: Tensor<'_>, part: Range<usize>) -> Vec<f32> {
    let mut values = vec![0.0f32; part.len()];
    decode_into(tensor, part.start, &mut values);
    values
}

/// Decodes the values from number `first` on as float32, in parallel.
fn decode_into(tensor: Tensor<'_>, first: usize, values: &mut [f32]) {
    let step = CHUNK_BYTES / tensor.dtype.size();
    values
        .par_chunks_mut(step)
        .enumerate()
        .for_each(|(chunk, values)| decode_rows(tensor, first + chunk * step, values));
}

/// Decodes the values from number `first` on as float32 and gives the mapped pages back.
pub(crate) fn decode_rows(tensor: Tensor<'_>, first: usize, values: &mut [f32]) {
    let start = first * tensor.dtype.size();
    let end = start + values.len() * tensor.dtype.size();
    widen_into(tensor.dtype, &tensor.slice(start, end), values);
    tensor.release(start, end);
}
