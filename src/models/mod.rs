//! Architectures as data: one small file each, and [`registry`], the one table that lists them.

mod llama;
mod llama4_text;
mod mistral;
mod mixtral;
mod qwen3;
mod qwen3_moe;
mod registry;

pub use registry::{Architecture, find, rows, supported};

use std::collections::BTreeMap;

/// Tensor names and shapes of a checkpoint, for configs that say less than the weights.
pub type TensorShapes = BTreeMap<String, Vec<usize>>;

/// What becomes of a checkpoint's tensor name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rename {
    /// It is mlx-lm's name already.
    Keep,
    /// mlx-lm calls it this.
    To(String),
    /// It is one expert's part of the tensor that mlx-lm calls so.
    Expert {
        /// The tensor of all experts, one after the other.
        stack: String,
        /// The expert's number.
        index: usize,
    },
    /// The decoder has no use for it (derived buffers).
    Drop,
}

/// Names that all Llama-like checkpoints share: RoPE buffers of old transformers versions are dropped.
fn rename_common(name: &str) -> Rename {
    if name.ends_with(".rotary_emb.inv_freq") { Rename::Drop } else { Rename::Keep }
}

/// The same, and `<mlp>.experts.<number>.<name>`, expert by expert on the Hub, is a part of `<mlp>.switch_mlp.<name>`.
fn rename_experts(name: &str) -> Rename {
    let part = |name: &str| {
        let (mlp, rest) = name.split_once(".experts.")?;
        let (number, rest) = rest.split_once('.')?;
        let index = number.parse().ok().filter(|index: &usize| index.to_string() == number)?;
        let stack = format!("{mlp}.switch_mlp.{rest}");
        rest.ends_with(".weight").then_some(Rename::Expert { stack, index })
    };
    part(name).unwrap_or_else(|| rename_common(name))
}
