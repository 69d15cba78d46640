//! Qwen3 with experts (Qwen3-30B-A3B): Qwen3's attention, and in most blocks an MLP of which a router chooses a part.

use super::names::TensorShapes;
use super::qwen3;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{DecoderSpec, EXPERT_NAMES};

/// Defaults of transformers' `Qwen3MoeConfig`: Qwen3's, but for these.
pub const DEFAULTS: &[KeyDefault] = extended!(qwen3::DEFAULTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 6144),
    KeyDefault::size("num_hidden_layers", 24),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::optional_size("max_window_layers"),
    KeyDefault::size("decoder_sparse_step", 1).minor(),
    KeyDefault::size("moe_intermediate_size", 768),
    KeyDefault::size("num_experts", 128),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::boolean("norm_topk_prob", false),
];

/// Describes the decoder: every `decoder_sparse_step`-th block has experts, unless `mlp_only_layers` names it. A sliding
/// window holds in every block.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_qk_norms();
    if config.required("use_sliding_window", ModelConfig::boolean)? {
        spec.set_sliding_windows(config, |_| true)?;
        spec.note_windows(config);
    }
    spec.note_rope_scaling(config);
    spec.set_qwen_experts(config, &EXPERT_NAMES)?;
    Ok(spec)
}
