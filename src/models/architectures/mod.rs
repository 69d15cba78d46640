//! Architectures as data: one small file each, and [`registry`], the one table that lists them.
mod ernie4_5;
mod helium;
mod internlm3;
mod llama;
mod llama4_text;
mod mimo;
mod mistral;
mod mixtral;
mod names;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod registry;
mod seed_oss;
mod smollm3;
mod telechat3;

pub use crate::models::names::Names;
pub use crate::models::names::Rename;
pub use names::TensorShapes;
pub use registry::{Architecture, find, rows, supported};
