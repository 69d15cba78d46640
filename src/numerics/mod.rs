//! Numbers without files: quantized formats, rounding, dtypes, divergence and sums over lanes.
pub mod affine;
pub mod divergence;
pub mod dtype;
pub mod lanes;
pub mod latent;
pub mod microscaling;
pub mod nearest;
pub mod quant;
pub mod rounding;
pub mod statistics;
pub(crate) mod wide;
