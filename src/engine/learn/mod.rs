//! Gradients of a quantized model's scales, biases and norms.
pub mod learning;
pub mod student;
