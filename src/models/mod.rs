//! Architectures as data: one small file each, and [`registry`], the one table that lists them.

mod llama;
mod llama4_text;
mod mistral;
mod mixtral;
mod names;
mod qwen3;
mod qwen3_moe;
mod registry;

pub use names::{Names, Rename};
pub use registry::{Architecture, find, rows, supported};

use std::collections::BTreeMap;

use names::{rename_common, rename_experts};

/// Tensor names and shapes of a checkpoint, for configs that say less than the weights.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;
