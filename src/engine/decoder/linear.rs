//! Linear layers and embeddings, float or quantized.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use std::sync::Arc;

use super::mlp::{Context, Nodes};
use crate::engine::array::{Packed, mlx_dtype};
use crate::engine::fused::{Finish, Interleaved, Layer, products};
use crate::error::{Error, Result};
use crate::models::spec::Tap;
use crate::numerics::dtype::Dtype;

/// Weight matrix [rows, columns], float or quantized.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    /// In the compute dtype.
    Float(Array),
    /// In float16 or bfloat16, widened to float32 as it is multiplied.
    Halves(Array),
    Quantized(Packed),
    /// Quantized, in the order that the processor reads fastest, and multiplied with float32.
    Interleaved(Interleaved),
}

impl Weight {
    /// Returns the matrix as floats of `dtype`.
    pub(crate) fn dense(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Float(weight) => Ok(weight.clone()),
            Self::Halves(weight) => Ok(weight.as_dtype(mlx_dtype(dtype))?),
            Self::Quantized(packed) => packed.dequantize(dtype),
            Self::Interleaved(matrix) => matrix.dequantize(dtype),
        }
    }

    /// Replaces a matrix that is not in the compute dtype by its decoded values.
    pub(crate) fn decode(&mut self, dtype: Dtype) -> Result<()> {
        if !matches!(self, Self::Float(_)) {
            let dense = self.dense(dtype)?;
            eval([&dense])?;
            *self = Self::Float(dense);
        }
        Ok(())
    }

    /// Splits the stored matrix of `count` experts, which lie one after the other, into one matrix per expert; without
    /// a copy.
    pub(crate) fn split_experts(self, count: usize) -> Result<Vec<Self>> {
        match self {
            Self::Interleaved(_) => Err(Error::engine("experts are split before they are interleaved")),
            Self::Float(weight) => Ok(split_experts(&weight, count)?.into_iter().map(Self::Float).collect()),
            Self::Halves(weight) => {
                Ok(split_experts(&weight, count)?.into_iter().map(Self::Halves).collect())
            }
            Self::Quantized(Packed { codes, scales, biases, quant }) => {
                let codes = split_experts(&codes, count)?;
                let scales = split_experts(&scales, count)?;
                let mut biases = match biases {
                    Some(biases) => split_experts(&biases, count)?.into_iter(),
                    None => Vec::new().into_iter(),
                };
                let experts = codes.into_iter().zip(scales).map(|(codes, scales)| {
                    Self::Quantized(Packed { codes, scales, biases: biases.next(), quant })
                });
                Ok(experts.collect())
            }
        }
    }

    /// Computes `x @ w.T` for x [batch, tokens, columns].
    pub(crate) fn matmul_transposed(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Float(weight) => Ok(x.matmul(weight.t())?),
            // MLX itself would widen the matrix first.
            Self::Halves(weight) => match products(x, &[(self, None)], Finish::Concatenated) {
                Some(product) => Ok(product),
                None => Ok(x.matmul(weight.as_dtype(mlx_rs::Dtype::Float32)?.t())?),
            },
            Self::Quantized(packed) => packed.matmul_transposed(x),
            Self::Interleaved(_) => products(x, &[(self, None)], Finish::Concatenated).ok_or_else(|| {
                Error::engine("an interleaved matrix is multiplied with float32 of its width")
            }),
        }
    }

    /// Returns the rows at `indices` as floats of `dtype`.
    pub(crate) fn rows(&self, indices: &Array, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Float(weight) => Ok(weight.take_axis(indices, 0)?),
            Self::Halves(weight) => Ok(weight.take_axis(indices, 0)?.as_dtype(mlx_dtype(dtype))?),
            Self::Quantized(packed) => packed.rows(indices)?.dequantize(dtype),
            Self::Interleaved(matrix) => Ok(matrix.take_rows(indices)?.as_dtype(mlx_dtype(dtype))?),
        }
    }
}

/// Splits an array [count, ..] into `count` arrays without the first axis.
pub(crate) fn split_experts(array: &Array, count: usize) -> Result<Vec<Array>> {
    let parts = array.split_equal(count as i32, 0)?;
    parts.iter().map(|part| Ok(part.squeeze_axes(&[0])?)).collect()
}

/// Linear layer: weight [rows, columns] and optional bias [rows].
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// Path of the layer, or of the layers of all experts.
    pub(crate) path: Arc<str>,
    /// Input that the layer reads.
    pub(crate) tap: Tap,
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Array>,
}

impl Linear {
    /// Returns the layer as a part of a node.
    pub(crate) fn layer(&self) -> Layer<'_> {
        (&self.weight, self.bias.as_ref())
    }

    /// Computes `x @ w.T + b`, plus `addend` if there is one.
    pub(crate) fn forward_plus(
        &self,
        context: Context<'_>,
        x: &Array,
        addend: Option<&Array>,
    ) -> Result<Array> {
        let Some(addend) = addend else { return self.forward(x) };
        if context.nodes == Nodes::Fused
            && let Some(sum) = products(x, &[self.layer()], Finish::Plus(addend))
        {
            return Ok(sum);
        }
        Ok(addend.add(self.forward(x)?)?)
    }

    /// Computes `x @ w.T + b`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let y = self.weight.matmul_transposed(x)?;
        Ok(match &self.bias {
            Some(bias) => y.add(bias)?,
            None => y,
        })
    }
}
