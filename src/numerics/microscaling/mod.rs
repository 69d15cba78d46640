//! MLX's floating-point modes on the CPU, without MLX: small floats that share a scale of one byte and have no bias.
//!
//! mxfp4 and mxfp8 are the OCP Microscaling formats (Rouhani et al., 2023): E2M1 or E4M3 codes in groups of 32 and a
//! power of two. nvfp4 has E2M1 codes in groups of 16 and an E4M3 scale; MLX's optional second scale of the whole tensor,
//! which `mlx_lm.convert` does not use either, is not written.
//!
//! Codes and scales are bit-exact with `mx.quantize` of MLX 0.32 on the CPU, with one exception: where that computes an
//! exponent below E8M0's range (the largest weight of a group is under 1e-37 in mxfp4, 2e-36 in mxfp8) it wraps around to a
//! huge scale, and this clamps. As in [`affine`](crate::numerics::affine), weights are first rounded to the type they are
//! quantized in, which here is not stored, but in which MLX divides.
mod minifloat;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use minifloat::{E2M1, E4M3, from_e8m0};
pub use rows::{dequantize, dequantize_stored, quantize, rounding_error_into};
