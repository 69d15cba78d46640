//! Text models of Qwen2-VL and Qwen2.5-VL: Qwen2's block with defaults of their own, which are the same for both.

use super::names::TensorShapes;
use super::qwen2::set_late_windows;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec};

/// Defaults of transformers' `Qwen2VLTextConfig` and `Qwen2_5_VLTextConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 152_064),
    KeyDefault::size("hidden_size", 8192),
    KeyDefault::size("intermediate_size", 29_568),
    KeyDefault::size("num_hidden_layers", 80),
    KeyDefault::size("num_attention_heads", 64),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault { nullable: true, ..KeyDefault::boolean("use_sliding_window", false) },
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::nullable_size("max_window_layers", 80).minor(),
];

/// Describes the decoder. The three positions of `mrope` are one in a text.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases { qkv: true, ..Biases::default() });
    set_late_windows(&mut spec, config)?;
    spec.note_head_dim(config);
    Ok(spec)
}
