//! Affine quantization on the CPU, bit-exact with `mx.quantize` of MLX 0.32, without MLX.
//!
//! Weights are `rows x columns`, row-major, and every `group_size` neighbours in a row share a scale and a bias.
//! Since the group size divides the row, a tensor is a sequence of groups: rows can be quantized in any slices
//! and the bytes of the slices are the bytes of the whole. Inputs and outputs are little-endian bytes as in
//! safetensors, so a mapped file streams through without copies; rayon works on blocks of groups.
//!
//! Two float types matter. The weights' own, and the one they are quantized *in*, which scales and biases are
//! stored in: weights are first rounded to that (`mlx_lm.convert --dtype` casts, then quantizes).
mod block;
mod dtype;
mod kernel;
mod pack;
mod rows;
#[cfg(test)]
mod tests;

pub use dtype::FloatType;
pub use kernel::{Grid, decode, encode, round_to_nearest_grid};
pub use pack::{pack, unpack};
pub use rows::{
    QuantizeError, Quantized, Rows, dequantize, dequantize_stored, quantize, quantize_dequantize,
    quantize_into, rounding_error, rounding_error_into,
};
pub(crate) use rows::{same_length, whole_rows};
