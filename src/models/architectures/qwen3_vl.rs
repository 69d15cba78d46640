//! Text model of Qwen3-VL: Qwen3's block with defaults of its own.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `Qwen3VLTextConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_936),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 22_016),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 128_000).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::boolean("attention_bias", false),
];

/// Describes the decoder: Llama's block with a norm of queries and keys. The three positions of `mrope` are one in a text.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(&config.with_defaults(DEFAULTS))?;
    spec.set_qk_norms();
    Ok(spec)
}
