//! Llama 2 and 3.x, `TinyLlama`, `SmolLM2` and what else calls itself `llama`.

use super::TensorShapes;
use crate::config::{KeyDefault, ModelConfig};
use crate::error::Result;
use crate::spec::DecoderSpec;

/// Defaults of transformers' `LlamaConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 32_000),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
];

/// Nothing but the shared keys; `rope_traditional` is mlx-lm's own key.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.rope.traditional = config.boolean("rope_traditional")?.unwrap_or(false);
    spec.set_sliding_windows(config, |_| false)?;
    Ok(spec)
}
