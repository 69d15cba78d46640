//! `OLMoE`: Llama's block with a norm over all heads of queries and keys, and experts in every block.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, ExpertsSpec};

/// Defaults of transformers' `OlmoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_304),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 2048),
    KeyDefault::size("num_hidden_layers", 16),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 4096).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::size("num_experts", 64),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::boolean("norm_topk_prob", false),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    config.only("clip_qkv", &serde_json::Value::Null)?;
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_norms_of_all_heads();
    let keys = ["num_experts", "num_experts_per_tok", "intermediate_size"];
    let experts = ExpertsSpec::from_config(config, keys)?.normalized_if_said(config, 0.0)?;
    spec.set_experts(config, experts, |_| true)?;
    // mlx-lm knows the one name only.
    spec.resolved.push(("num_experts", experts.count.into()));
    Ok(spec)
}
