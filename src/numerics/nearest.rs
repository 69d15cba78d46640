//! Rounding to nearest in any of MLX's modes, as `mx.quantize` does it: [`affine`] or [`microscaling`] by
//! [`Quant::mode`].

use super::quant::{Mode, Quant};
use super::{affine, microscaling};
use crate::numerics::affine::{FloatType, QuantizeError, Quantized, Rows};

type Result<T, E = QuantizeError> = std::result::Result<T, E>;

/// Quantizes as `mx.quantize(weights.astype(dtype), ..)`; affine scales and biases are stored in `dtype`.
pub fn quantize(weights: Rows<'_>, quant: Quant, dtype: FloatType) -> Result<Quantized> {
    match quant.mode {
        Mode::Affine => affine::quantize(weights, quant, dtype),
        _ => microscaling::quantize(weights, quant, dtype),
    }
}

/// Decodes in float32 arithmetic; affine scales and biases are of type `dtype`. `out` takes as many weights as were
/// quantized.
pub fn dequantize(
    quantized: Quantized<&[u8]>,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
) -> Result<()> {
    match quant.mode {
        Mode::Affine => affine::dequantize(quantized, quant, dtype, out),
        _ => microscaling::dequantize(quantized, quant, out),
    }
}

/// Decodes as `mx.dequantize(.., dtype=dtype)`; affine scales and biases are of type `dtype`. `out` takes the
/// little-endian bytes of as many weights as were quantized.
pub fn dequantize_stored(
    quantized: Quantized<&[u8]>,
    quant: Quant,
    dtype: FloatType,
    out: &mut [u8],
) -> Result<()> {
    match quant.mode {
        Mode::Affine => affine::dequantize_stored(quantized, quant, dtype, out),
        _ => microscaling::dequantize_stored(quantized, quant, dtype, out),
    }
}

/// Writes the rounding error `Q(W) - W` of [`quantize`] then [`dequantize`], including what the cast to `dtype` costs, of
/// float32 weights in rows of `columns`; `out` has as many items.
pub fn rounding_error_into(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
) -> Result<()> {
    match quant.mode {
        Mode::Affine => affine::rounding_error_into(weights, columns, quant, dtype, out),
        _ => microscaling::rounding_error_into(weights, columns, quant, dtype, out),
    }
}
