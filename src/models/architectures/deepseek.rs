//! `DeepSeek` `MoE` 16B: Llama's block with experts and shared ones after the first blocks.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, ExpertsSpec};

/// Defaults of the class that its makers publish, `DeepseekConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 102_400),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 30),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::size("moe_intermediate_size", 1407),
    KeyDefault::optional_size("num_experts_per_tok"),
    KeyDefault::optional_size("n_shared_experts"),
    KeyDefault::optional_size("n_routed_experts"),
    KeyDefault::size("moe_layer_freq", 1).minor(),
    KeyDefault::size("first_k_dense_replace", 0).minor(),
    KeyDefault::boolean("norm_topk_prob", false),
    KeyDefault::text("scoring_func", "softmax"),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only("scoring_func", &"softmax".into())?;
    let mut spec = DecoderSpec::from_config(config)?;
    spec.note_head_dim(config);
    spec.note_head(config, false);
    let keys = ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"];
    let experts = ExpertsSpec::from_config(config, keys)?;
    let normalized = config.required("norm_topk_prob", ModelConfig::boolean)?;
    spec.note_if(normalized, "norm_topk_prob is honoured; mlx-lm's deepseek ignores it");
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    let step = config.require_size("moe_layer_freq")?;
    let experts = experts.normalized(normalized, 1e-20);
    spec.set_experts(config, experts, |block| block >= dense && block.is_multiple_of(step))?;
    spec.set_counted_shared_experts(config, "n_shared_experts", experts.intermediate_size)?;
    Ok(spec)
}
