//! Linear layers and embeddings, float or quantized.

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use crate::engine::array::Packed;
use crate::error::Result;
use crate::numerics::dtype::Dtype;

/// A weight matrix [rows, columns].
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    Float(Array),
    Quantized(Packed),
}

impl Weight {
    /// The matrix in float.
    pub(crate) fn dense(&self, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Float(weight) => Ok(weight.clone()),
            Self::Quantized(packed) => packed.dequantize(dtype),
        }
    }

    /// Decodes a quantized matrix for good.
    pub(crate) fn decode(&mut self, dtype: Dtype) -> Result<()> {
        if let Self::Quantized(packed) = self {
            let dense = packed.dequantize(dtype)?;
            eval([&dense])?;
            *self = Self::Float(dense);
        }
        Ok(())
    }

    /// The matrices that lie one after the other, `count` of them; without a copy.
    pub(crate) fn apart(self, count: usize) -> Result<Vec<Self>> {
        match self {
            Self::Float(weight) => Ok(apart(&weight, count)?.into_iter().map(Self::Float).collect()),
            Self::Quantized(Packed { codes, scales, biases, quant }) => {
                let both = apart(&codes, count)?.into_iter().zip(apart(&scales, count)?);
                let mut biases = biases.map(|biases| apart(&biases, count)).transpose()?.map(Vec::into_iter);
                let packed = both.map(|(codes, scales)| {
                    let biases = biases.as_mut().and_then(Iterator::next);
                    Self::Quantized(Packed { codes, scales, biases, quant })
                });
                Ok(packed.collect())
            }
        }
    }

    /// `x @ w.T` for x [batch, tokens, columns]. On the CPU a quantized matrix is decoded once for many rows, because
    /// MLX's quantized product there runs at a hundredth of the rate of the dense one.
    pub(crate) fn matmul_transposed(&self, x: &Array, dtype: Dtype, on_gpu: bool) -> Result<Array> {
        match self {
            Self::Float(weight) => Ok(x.matmul(weight.t())?),
            Self::Quantized(packed) if on_gpu || rows(x) < DENSE_ROWS => packed.matmul_transposed(x),
            Self::Quantized(packed) => Ok(x.matmul(packed.dequantize(dtype)?.t())?),
        }
    }

    /// The rows at `indices` in float.
    pub(crate) fn rows(&self, indices: &Array, dtype: Dtype) -> Result<Array> {
        match self {
            Self::Float(weight) => Ok(weight.take_axis(indices, 0)?),
            Self::Quantized(packed) => packed.rows(indices)?.dequantize(dtype),
        }
    }
}

/// The parts of an array [count, ..], each without the first axis.
pub(crate) fn apart(array: &Array, count: usize) -> Result<Vec<Array>> {
    let parts = array.split_equal(count as i32, 0)?;
    parts.iter().map(|part| Ok(part.squeeze_axes(&[0])?)).collect()
}

/// Rows from which decoding the matrix pays on the CPU.
const DENSE_ROWS: usize = 2;

fn rows(x: &Array) -> usize {
    let columns = x.shape().last().copied().unwrap_or(1).max(1) as usize;
    x.size() / columns
}

/// A linear layer.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Array>,
}

impl Linear {
    /// `x @ w.T + b`.
    pub(crate) fn forward(&self, x: &Array, dtype: Dtype, on_gpu: bool) -> Result<Array> {
        let y = self.weight.matmul_transposed(x, dtype, on_gpu)?;
        Ok(match &self.bias {
            Some(bias) => y.add(bias)?,
            None => y,
        })
    }
}
