//! Better codes, scales and biases than round-to-nearest, in the same affine format: functions on slices.
//!
//! [`search()`] looks for the scale and bias of each group that leave the least weighted squared error, the weights being
//! how large the layer's inputs are. [`gptq()`] also knows how inputs go together and lets later columns make up for the
//! errors of earlier ones; then codes and grids change wherever that loses less. Weights are float32 `[rows, columns]`,
//! row-major, any slice of rows of a matrix; they are first rounded to the type that scales and biases are stored in, as
//! in [`crate::numerics::affine`].
mod descent;
mod fit;
mod gptq;
mod group;
mod linalg;
mod rounded;
mod search;
mod shrink;
mod technique;
#[cfg(test)]
mod tests;
mod tile;

pub use descent::PASSES as DESCENT_PASSES;
pub use gptq::{Gptq, gptq};
pub use linalg::{Hessian, Precision};
pub use rounded::{DAMPING, FEW_TOKENS, RoundingError};
pub use search::{search, search_error_into};
pub use shrink::shrink;
pub use technique::{Importance, Rounder, Technique};
