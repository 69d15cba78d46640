//! Granite 3: Llama's block with factors on the embedding, the scores, each part's output and the logits.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `GraniteConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, OWN);

const OWN: &[KeyDefault] = &[
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
    let other_than_one = |value: f32| Some(value).filter(|value| (value - 1.0).abs() > f32::EPSILON);
    let (scores, residual) =
        (config.factor("attention_multiplier")?, other_than_one(config.factor("residual_multiplier")?));
    for block in &mut spec.blocks {
        block.attention.part.scale = scores;
        (block.attention.factor, block.mlp.factor) = (residual, residual);
    }
    spec.embed.scale = other_than_one(config.factor("embedding_multiplier")?);
    spec.head.scale = other_than_one(1.0 / config.factor("logits_scaling")?);
    Ok(spec)
}
