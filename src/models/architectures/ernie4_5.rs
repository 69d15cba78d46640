//! ERNIE 4.5 without experts: Llama's block with interleaved RoPE, and one switch for all biases.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec};

/// Defaults of transformers' `Ernie4_5Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 103_424),
    KeyDefault::size("hidden_size", 1024),
    KeyDefault::size("intermediate_size", 3072),
    KeyDefault::size("num_hidden_layers", 18),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::nullable_size("num_key_value_heads", 2),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault { nullable: true, ..KeyDefault::boolean("use_bias", false) },
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.ropes[0].traditional = true;
    let bias = config.boolean("use_bias")?.unwrap_or(false);
    spec.set_biases(Biases::of_parts(bias, bias));
    spec.note_rope_scaling(config);
    Ok(spec)
}
