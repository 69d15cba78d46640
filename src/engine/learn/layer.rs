//! Quantized layers as functions of what learns in them: affine weights are `scale * code + bias`, those of the other modes
//! `scale * value`, whose scales are powers of two or small floats that stay.
//!
//! Codes that learn are values of codes on the way forward. On the way back rounding counts as the identity
//! (straight-through, arXiv:1308.3432), so the gradient of a latent code is that of its weight times the scale. Steps from one
//! small float to the next are not equally long; their length is left out of the gradient, which Adam would take out again.

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use crate::engine::array::Packed;
use crate::engine::decoder::linear::{Weight, split_experts};
use crate::error::{Error, Result};
use crate::numerics::quant::Mode;

/// Part that codes take in learning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codes {
    /// They stay as they are.
    #[default]
    Fixed,
    /// They learn, with the scales and biases.
    Learning,
}

/// Returns the names of the tensors of a layer of `mode` at `path` that learn, in the order of their gradients.
pub(crate) fn tensor_names(path: &str, mode: Mode, codes: Codes) -> impl Iterator<Item = String> {
    let parts: &[&str] = match (mode, codes) {
        (Mode::Affine, Codes::Fixed) => &["scales", "biases"],
        (Mode::Affine, Codes::Learning) => &["scales", "biases", "weight"],
        (_, Codes::Fixed) => &[],
        (_, Codes::Learning) => &["weight"],
    };
    parts.iter().map(move |part| format!("{path}.{part}"))
}

/// Layer that learns, of one matrix or of one per expert.
pub(crate) struct LearningLayer {
    matrices: usize,
    fixed: Fixed,
}

/// Parts of a learning layer's matrices that stay as they are.
enum Fixed {
    Nothing,
    /// Affine codes [rows, groups, group size].
    Codes(Vec<Array>),
    /// Scales of a floating-point mode [rows, groups, 1].
    Scales(Vec<Array>),
}

impl LearningLayer {
    /// Takes the layer at `path` apart. Appends to `values` what learns of it, in the order of [`tensor_names`], each stacked
    /// for experts.
    pub(crate) fn new<'w>(
        path: &str,
        weights: impl Iterator<Item = &'w Weight>,
        codes: Codes,
        values: &mut Vec<Array>,
    ) -> Result<Self> {
        let packed = |weight: &'w Weight| match weight {
            Weight::Quantized(packed) => Ok(packed),
            _ => Err(not_quantized(path)),
        };
        let matrices = weights.map(packed).collect::<Result<Vec<&Packed>>>()?;
        let of_each = |part: &dyn Fn(&Packed) -> Result<Array>| {
            let parts = matrices.iter().map(|packed| part(packed)).collect::<Result<Vec<_>>>()?;
            eval(&parts)?;
            Ok::<_, Error>(parts)
        };
        let all_codes = of_each(&Packed::codes)?;
        let fixed = if matrices.iter().all(|packed| packed.quant.mode == Mode::Affine) {
            let biases = of_each(&|packed| packed.biases.clone().ok_or_else(|| without_biases(path)))?;
            values.extend([stack(&of_each(&|packed| Ok(packed.scales.clone()))?)?, stack(&biases)?]);
            if codes == Codes::Fixed { Fixed::Codes(all_codes.clone()) } else { Fixed::Nothing }
        } else {
            Fixed::Scales(of_each(&Packed::scale_values)?)
        };
        if codes == Codes::Learning {
            values.push(stack(&all_codes)?);
        }
        Ok(Self { matrices: matrices.len(), fixed })
    }

    /// Computes the layer's matrices [rows, columns]. Takes what learns of it from `values`.
    pub(crate) fn matrices<'v>(&self, values: &mut impl Iterator<Item = &'v Array>) -> Result<Vec<Weight>> {
        let mut next = || unstack(values.next().ok_or_else(missing_values)?, self.matrices);
        let decoded: Vec<Array> = match &self.fixed {
            Fixed::Scales(scales) => {
                let matrices = next()?.into_iter().zip(scales).map(|(codes, scales)| codes.multiply(scales));
                matrices.collect::<Result<_, _>>()?
            }
            fixed => {
                let (scales, biases) = (next()?, next()?);
                let codes = if let Fixed::Codes(codes) = fixed { codes } else { &next()? };
                let parts = codes.iter().zip(&scales).zip(&biases);
                parts.map(|((codes, scales), biases)| affine(codes, scales, biases)).collect::<Result<_>>()?
            }
        };
        decoded.iter().map(|grouped| Ok(Weight::Float(ungrouped(grouped)?))).collect()
    }
}

/// Computes `scale * code + bias` for `codes` [rows, groups, group size] and scales and biases [rows, groups].
fn affine(codes: &Array, scales: &Array, biases: &Array) -> Result<Array> {
    Ok(codes.multiply(scales.expand_dims(2)?)?.add(biases.expand_dims(2)?)?)
}

/// Returns a matrix [rows, columns] from its groups [rows, groups, group size].
fn ungrouped(groups: &Array) -> Result<Array> {
    let size = groups.shape();
    Ok(groups.reshape(&[size[0], size[1] * size[2]])?)
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

fn without_biases(path: &str) -> Error {
    Error::engine(format!("layer `{path}` has no biases to learn"))
}

fn not_quantized(path: &str) -> Error {
    Error::engine(format!("layer `{path}` is not quantized and has nothing to learn"))
}
