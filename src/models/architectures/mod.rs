//! Architectures as data: one small file each, and [`registry`], the one table that lists them.
mod families;
mod llama;
mod llama4_text;
mod mistral;
mod mixtral;
mod names;
mod qwen3;
mod qwen3_moe;
mod qwen3_vl;
mod registry;
mod wrappers;

pub use crate::models::names::Names;
pub use crate::models::names::Rename;
pub use families::{Published, published};
pub use names::TensorShapes;
pub use registry::{Architecture, find, rows, text_decoders};
