//! Mixtral 8x7B and 8x22B: Mistral's block with experts, which are called `w1` (gate), `w2` (down) and `w3` (up).

use super::mistral;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{Biases, DecoderSpec, ExpertsSpec, LOCAL_EXPERT_KEYS};

/// Defaults of transformers' `MixtralConfig`: Mistral's, but for these.
pub const DEFAULTS: &[KeyDefault] = extended!(mistral::DEFAULTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::optional_size("sliding_window"),
    KeyDefault::size("num_local_experts", 8),
    KeyDefault::size("num_experts_per_tok", 2),
];

/// Describes the decoder: experts in every block, their probabilities brought to a sum of 1.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_local_experts", "num_experts")?.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_mlp_name("block_sparse_moe");
    if config.size("sliding_window")?.is_some() {
        spec.set_sliding_windows(config, |_| true)?;
        spec.note_windows(config);
    }
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    let experts = ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?.normalized(true, 0.0);
    // mlx-lm knows the one name only.
    spec.resolved.push(("num_local_experts", experts.count.into()));
    spec.set_experts(config, experts, |_| true)?;
    Ok(spec)
}

/// Renames experts' matrices as mlx-lm does. transformers 5 calls the experts' block `mlp`, Mixtral's own
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
