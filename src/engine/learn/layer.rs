//! Affine layers as functions of what learns in them: weights are `scale * code + bias`.
//!
//! Codes that learn are integers on the way forward. On the way back rounding counts as the identity (straight-through,
//! arXiv:1308.3432), so the gradient of a latent code is that of its weight times the scale.

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use crate::engine::array::Packed;
use crate::engine::decoder::linear::{Weight, split_experts};
use crate::error::{Error, Result};

/// Part that codes take in learning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codes {
    /// They stay as they are.
    #[default]
    Fixed,
    /// They learn, with the scales and biases.
    Learning,
}

/// Returns the names of the tensors of the layer at `path` that learn, in the order of their gradients.
pub(crate) fn tensor_names(path: &str, codes: Codes) -> impl Iterator<Item = String> {
    let parts: &[&str] = match codes {
        Codes::Fixed => &["scales", "biases"],
        Codes::Learning => &["scales", "biases", "weight"],
    };
    parts.iter().map(move |part| format!("{path}.{part}"))
}

/// Layer that learns, of one matrix or of one per expert.
pub(crate) struct LearningLayer {
    matrices: usize,
    /// Codes that stay, [rows, groups, group size] of each matrix; none where they learn.
    fixed: Vec<Array>,
}

impl LearningLayer {
    /// Takes the layer at `path` apart. Appends to `values` what learns of it: scales, biases and, where they learn,
    /// codes, each stacked for experts.
    pub(crate) fn new<'w>(
        path: &str,
        weights: impl Iterator<Item = &'w Weight>,
        codes: Codes,
        values: &mut Vec<Array>,
    ) -> Result<Self> {
        let (mut scales, mut biases, mut all_codes) = (Vec::new(), Vec::new(), Vec::new());
        for weight in weights {
            let Weight::Quantized(packed) = weight else { return Err(not_quantized(path)) };
            let Packed { biases: Some(bias), .. } = packed else {
                return Err(Error::engine(format!("layer `{path}` has no biases to learn")));
            };
            scales.push(packed.scales.clone());
            biases.push(bias.clone());
            all_codes.push(packed.codes()?);
        }
        eval(&all_codes)?;
        let matrices = all_codes.len();
        values.extend([stack(&scales)?, stack(&biases)?]);
        if codes == Codes::Learning {
            values.push(stack(&std::mem::take(&mut all_codes))?);
        }
        Ok(Self { matrices, fixed: all_codes })
    }

    /// Computes the layer's matrices [rows, columns]. Takes what learns of it from `values`.
    pub(crate) fn matrices<'v>(&self, values: &mut impl Iterator<Item = &'v Array>) -> Result<Vec<Weight>> {
        let mut next = || unstack(values.next().ok_or_else(missing_values)?, self.matrices);
        let (scales, biases) = (next()?, next()?);
        let codes = if self.fixed.is_empty() { &next()? } else { &self.fixed };
        let parts = codes.iter().zip(&scales).zip(&biases);
        parts.map(|((codes, scales), biases)| Ok(Weight::Float(decode(codes, scales, biases)?))).collect()
    }
}

/// Computes the matrix [rows, columns] of `codes` [rows, groups, group size] with scales and biases [rows, groups].
fn decode(codes: &Array, scales: &Array, biases: &Array) -> Result<Array> {
    let size = codes.shape();
    let (rows, columns) = (size[0], size[1] * size[2]);
    let decoded = codes.multiply(scales.expand_dims(2)?)?.add(biases.expand_dims(2)?)?;
    Ok(decoded.reshape(&[rows, columns])?)
}

/// Stacks an array per expert to one, as it is stored; one alone stays as it is.
fn stack(parts: &[Array]) -> Result<Array> {
    if let [part] = parts {
        return Ok(part.clone());
    }
    let parts = parts.iter().map(|part| part.expand_dims(0)).collect::<Result<Vec<_>, _>>()?;
    Ok(mlx_rs::ops::concatenate(&parts, 0)?)
}

/// Splits what [`stack`] made of `count` arrays.
fn unstack(all: &Array, count: usize) -> Result<Vec<Array>> {
    if count == 1 { Ok(vec![all.clone()]) } else { split_experts(all, count) }
}

fn missing_values() -> Error {
    Error::engine("a layer's values are missing")
}

fn not_quantized(path: &str) -> Error {
    Error::engine(format!("layer `{path}` is not quantized and has no scales to learn"))
}
