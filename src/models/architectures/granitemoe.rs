//! Granite 3 with experts: Granite's block, and weights that are the softmax over the chosen experts.

use super::names::TensorShapes;
use super::{granite, llama};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::names::{Rename, rename_common};
use crate::models::spec::{DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, LOCAL_EXPERT_KEYS, Score};

/// Defaults of transformers' `GraniteMoeConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::nullable_number("embedding_multiplier", 1.0).minor(),
    KeyDefault::nullable_number("attention_multiplier", 1.0).minor(),
    KeyDefault::nullable_number("residual_multiplier", 1.0).minor(),
    KeyDefault::nullable_number("logits_scaling", 1.0).minor(),
    KeyDefault::nullable_size("num_local_experts", 8),
    KeyDefault::nullable_size("num_experts_per_tok", 2),
];

const NAMES: ExpertNames = ExpertNames { router: "router.layer", ..EXPERT_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = granite::spec(config, shapes)?;
    spec.set_mlp_name("block_sparse_moe");
    spec.note_head_dim(config);
    let experts = ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?;
    let experts = ExpertsSpec { names: &NAMES, score: Score::SoftmaxOfChosen, ..experts };
    spec.set_experts(config, experts, |_| true)?;
    Ok(spec)
}

/// Names the experts' matrices: gate and up are one tensor for all experts, down another.
pub fn rename(name: &str) -> Rename {
    let part = |name: &str, stored: &str| name.strip_suffix(stored).map(str::to_owned);
    let whole = |mlp: &str, name: &str| format!("{mlp}.switch_mlp.{name}.weight");
    if let Some(mlp) = part(name, ".input_linear.weight") {
        return Rename::stacked([whole(&mlp, "gate_proj"), whole(&mlp, "up_proj")]);
    }
    match part(name, ".output_linear.weight") {
        Some(mlp) => Rename::To(whole(&mlp, "down_proj")),
        None => rename_common(name),
    }
}
