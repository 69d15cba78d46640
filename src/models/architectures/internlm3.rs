//! `InternLM3`: Llama's block, in which queries, keys, values and attention's output have biases together.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, RopeScaling};

/// Defaults of transformers' `InternLM3Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 128_512),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 10_240),
    KeyDefault::size("num_hidden_layers", 48),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 2),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
];

/// Describes the decoder. Published configs call the switches of biases `qkv_bias` and `bias`, as mlx-lm does.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_alias("attention_bias", "qkv_bias")?.with_alias("mlp_bias", "bias")?;
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    for (published, key) in [("qkv_bias", "attention_bias"), ("bias", "mlp_bias")] {
        spec.resolved.push((published, config.boolean(key)?.unwrap_or(false).into()));
    }
    for (key, value) in &mut spec.resolved {
        // mlx-lm's internlm3 wants the newer of the two names.
        if *key == "rope_scaling"
            && let Some(scaling) = value.as_object_mut()
            && let Some(kind) = scaling.shift_remove("type")
        {
            scaling.entry("rope_type").or_insert(kind);
        }
    }
    if matches!(spec.ropes[0].scaling, RopeScaling::Llama3 { .. } | RopeScaling::Yarn { .. }) {
        spec.notes.push("mlx-lm's internlm3 refuses this rope_scaling".to_owned());
    }
    spec.note_head_dim(config);
    Ok(spec)
}
