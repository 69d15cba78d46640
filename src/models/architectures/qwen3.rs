//! Qwen3 dense models: RMS norm with weight on queries and keys, explicit `head_dim`.

use super::names::TensorShapes;
use super::qwen2;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `Qwen3Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_936),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 22_016),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("use_sliding_window", false),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::size("max_window_layers", 28).minor(),
];

/// Describes the decoder: Llama's block with a norm of queries and keys; the later blocks may have a sliding window.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_qk_norms();
    qwen2::set_late_windows(&mut spec, config)?;
    Ok(spec)
}
