//! Mixtral 8x7B and 8x22B: Mistral's block with experts, which are called `w1` (gate), `w2` (down) and `w3` (up).

use super::{Rename, TensorShapes, rename_experts};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::{DecoderSpec, ExpertsSpec, RopeScaling};

/// Experts in every block, their probabilities brought to a sum of 1.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config, 1_000_000.0)?;
    spec.attention_bias = false;
    spec.mlp_bias = false;
    spec.mlp_name = "block_sparse_moe";
    if config.size("sliding_window")?.is_some() {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes
            .push("sliding_window is applied as transformers does; mlx-lm's mixtral ignores it".to_owned());
    }
    if spec.rope.scaling != RopeScaling::Default {
        spec.notes
            .push("rope_scaling is applied as transformers does; mlx-lm's mixtral ignores it".to_owned());
    }
    if spec.head_dim * spec.num_attention_heads != spec.hidden_size {
        spec.notes.push(format!("head_dim is {}; mlx-lm's mixtral does not read it", spec.head_dim));
    }
    let experts = ExpertsSpec {
        count: config.size("num_local_experts")?.unwrap_or(8),
        per_token: config.size("num_experts_per_tok")?.unwrap_or(2),
        intermediate_size: spec.intermediate_size,
        normalized: true,
    };
    spec.set_experts(config, experts, |_| true)?;
    Ok(spec)
}

/// The names that mlx-lm gives experts' matrices. transformers 5 calls the experts' block `mlp`, Mixtral's own
/// checkpoints and mlx-lm `block_sparse_moe`.
pub fn rename(name: &str) -> Rename {
    let own = [".mlp.experts.", ".mlp.gate."].iter().find(|part| name.contains(*part));
    let name_here = own.map(|_| name.replacen(".mlp.", ".block_sparse_moe.", 1));
    match (rename_experts(name_here.as_deref().unwrap_or(name)), name_here) {
        (Rename::Expert { stack, index }, _) => {
            let names = [(".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")];
            let stack = names.iter().fold(stack, |stack, (theirs, ours)| stack.replace(theirs, ours));
            Rename::Expert { stack, index }
        }
        (Rename::Keep, Some(name)) => Rename::To(name),
        (other, _) => other,
    }
}
