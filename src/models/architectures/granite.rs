//! Granite 3: Llama's block with factors on the embedding, the scores, each part's output and the logits.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `GraniteConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
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
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
    KeyDefault::number("embedding_multiplier", 1.0).minor(),
    KeyDefault::number("attention_multiplier", 1.0).minor(),
    KeyDefault::number("residual_multiplier", 1.0).minor(),
    KeyDefault::number("logits_scaling", 1.0).minor(),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    let factor = |key| Ok::<_, crate::error::Error>(config.required(key, ModelConfig::positive)? as f32);
    let other_than_one = |value: f32| Some(value).filter(|value| (value - 1.0).abs() > f32::EPSILON);
    let (scores, residual) =
        (factor("attention_multiplier")?, other_than_one(factor("residual_multiplier")?));
    for block in &mut spec.blocks {
        block.attention.part.scale = scores;
        (block.attention.factor, block.mlp.factor) = (residual, residual);
    }
    spec.embed.scale = other_than_one(factor("embedding_multiplier")?);
    spec.head.scale = other_than_one(1.0 / factor("logits_scaling")?);
    Ok(spec)
}
