//! Architectures as data: one small file each, and [`registry`], the one table that lists them.
mod ernie4_5;
mod gemma;
mod gemma2;
mod gemma3_text;
mod granite;
mod helium;
mod internlm3;
mod llama;
mod llama4_text;
mod mimo;
mod mistral;
mod mixtral;
mod names;
mod olmo2;
mod phi3;
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
