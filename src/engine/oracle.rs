//! MLX's own quantization, which [`affine`](crate::numerics::affine) and [`microscaling`](crate::numerics::microscaling) are tested against.

use mlx_rs::{Array, Dtype as MlxDtype, Stream};

use super::array;
use super::array::{Packed, empty, mode_name, optional_int};
use super::runtime::Engine;
use crate::error::{Error, Result};
use crate::numerics::affine::Quantized;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{Mode, Quant};

/// Runs `mx.quantize` on little-endian `weights` of `dtype`, row-major [rows, columns].
pub fn quantize(
    _: &Engine,
    weights: &[u8],
    dtype: Dtype,
    shape: [usize; 2],
    quant: Quant,
) -> Result<Quantized> {
    let weights = array::from_bytes(weights, dtype, &shape);
    let mode = mode_name(quant.mode)?;
    let none = empty();
    let stream = Stream::thread_local_or_default();
    // SAFETY: the vector is fresh, filled by the first call and freed by the last; its arrays are owned copies.
    let parts = unsafe {
        let mut vector = mlx_sys::mlx_vector_array_new();
        let status = mlx_sys::mlx_quantize(
            &raw mut vector,
            weights.as_ptr(),
            optional_int(quant.group_size),
            optional_int(quant.bits),
            mode.as_ptr(),
            none.as_ptr(),
            stream.as_ptr(),
        );
        let count = if status == 0 { mlx_sys::mlx_vector_array_size(vector) } else { 0 };
        let parts: Vec<Array> = (0..count)
            .map(|index| {
                let mut part = mlx_sys::mlx_array_new();
                mlx_sys::mlx_vector_array_get(&raw mut part, vector, index);
                Array::from_ptr(part)
            })
            .collect();
        mlx_sys::mlx_vector_array_free(vector);
        parts
    };
    let mut parts = parts.iter().map(to_bytes);
    let mut next = || parts.next().unwrap_or_else(|| Err(Error::engine("mx.quantize failed")));
    let (packed, scales) = (next()?, next()?);
    let biases = if quant.mode == Mode::Affine { next()? } else { Vec::new() };
    Ok(Quantized { packed, scales, biases })
}

/// Runs `mx.dequantize` to little-endian values of `dtype`, row-major [rows, columns]; affine scales and biases are of
/// `dtype` too.
pub fn dequantize(
    _: &Engine,
    quantized: Quantized<&[u8]>,
    dtype: Dtype,
    shape: [usize; 2],
    quant: Quant,
) -> Result<Vec<u8>> {
    let [rows, columns] = shape;
    let sizes = quant.packed_columns(columns).zip(quant.groups(columns));
    let (words, groups) =
        sizes.ok_or_else(|| Error::engine(format!("{columns} columns cannot be quantized as {quant}")))?;
    let affine = quant.mode == Mode::Affine;
    let scales_dtype = if affine { dtype } else { Dtype::U8 };
    let packed = Packed {
        codes: array::from_bytes(quantized.packed, Dtype::U32, &[rows, words]),
        scales: array::from_bytes(quantized.scales, scales_dtype, &[rows, groups]),
        biases: affine.then(|| array::from_bytes(quantized.biases, dtype, &[rows, groups])),
        quant,
    };
    to_bytes(&packed.dequantize(dtype)?)
}

fn to_bytes(array: &Array) -> Result<Vec<u8>> {
    let bytes = array.contiguous()?.view_dtype(MlxDtype::Uint8)?;
    bytes.to_vec_exact::<u8>().map_err(|e| Error::engine(e.to_string()))
}
