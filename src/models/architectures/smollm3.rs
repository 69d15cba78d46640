//! `SmolLM3`: Llama's block; every fourth layer has no RoPE, and may have a sliding window.

use serde_json::Value;

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionSpan, DecoderSpec, rope_flags};

/// Defaults of transformers' `SmolLM3Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 128_256),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 36),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 2_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
    KeyDefault::boolean("use_sliding_window", false),
    KeyDefault::size("no_rope_layer_interval", 4).minor(),
];

/// Describes the decoder. Without `layer_types` a sliding window holds in the layers without RoPE.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    let flags = rope_flags(config, spec.blocks.len())?;
    for (attention, &rope) in spec.attentions_mut().zip(&flags) {
        attention.rope = rope.then_some(0);
    }
    let slides = config.required("use_sliding_window", ModelConfig::boolean)?;
    spec.set_sliding_windows(config, |layer| slides && !flags[layer])?;
    // mlx-lm knows neither a longer list nor how use_sliding_window chooses layers.
    let numbers: Vec<u8> = flags.into_iter().map(u8::from).collect();
    spec.resolved.push(("no_rope_layers", numbers.into()));
    let types: Vec<Value> = spec.attentions().map(|attention| layer_type(attention.span).into()).collect();
    if types.iter().any(|kind| *kind != layer_type(AttentionSpan::Full)) {
        spec.resolved.push(("layer_types", types.into()));
    }
    Ok(spec)
}

fn layer_type(span: AttentionSpan) -> &'static str {
    if span == AttentionSpan::Full { "full_attention" } else { "sliding_attention" }
}
