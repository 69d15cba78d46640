//! Gradients of a quantized model's scales, biases, codes and norms.
pub mod blockwise;
pub mod layer;
pub mod learning;
pub mod student;
