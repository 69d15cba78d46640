//! Llama 2 and 3.x, `TinyLlama`, `SmolLM2` and what else calls itself `llama`.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `LlamaConfig`: those that most classes share, and these.
pub const DEFAULTS: &[KeyDefault] = extended!(SHARED, OWN);

const OWN: &[KeyDefault] = &[KeyDefault::optional_size("head_dim"), KeyDefault::boolean("mlp_bias", false)];

/// Defaults that classes after Llama's have too, but for sizes.
pub(super) const SHARED: &[KeyDefault] = extended!(USUAL, &[KeyDefault::boolean("attention_bias", false)]);

/// Defaults that classes have too whose biases are called otherwise, or that have none.
pub(super) const USUAL: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 32_000),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
];

/// Describes the decoder by the shared keys and `rope_traditional`, a key of mlx-lm's own.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.ropes[0].traditional = config.boolean("rope_traditional")?.unwrap_or(false);
    spec.set_sliding_windows(config, |_| false)?;
    Ok(spec)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, reason = "values go through untouched")]
mod tests;
