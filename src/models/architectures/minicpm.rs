//! `MiniCPM` 1 and 2: Llama's block with factors on the embedding, what each part gives, and the logits.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{Biases, DecoderSpec};

/// Defaults of its makers' `MiniCPMConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::number("scale_emb", 1.0),
    KeyDefault::number("dim_model_base", 1.0),
    KeyDefault::number("scale_depth", 1.0),
];

const TIE: &str = "tie_word_embeddings";

/// Describes the decoder. The head is the embedding where none is stored, whatever the config says.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only("attention_bias", &false.into())?;
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    let depth = config.factor("scale_depth")? / (spec.blocks.len() as f32).sqrt();
    for block in &mut spec.blocks {
        (block.attention.factor, block.mlp.factor) = (Some(depth), Some(depth));
    }
    spec.embed.scale = Some(config.factor("scale_emb")?);
    spec.head.scale = Some(config.factor("dim_model_base")? / spec.hidden_size as f32);
    let is_stored = shapes.contains_key(&format!("{}.weight", spec.head.path));
    spec.head.tied |= !is_stored && !shapes.is_empty();
    spec.head.quantized_tied = false;
    // mlx-lm's class leaves out the factor on the logits of a head that is said to be tied, and takes the embedding for one
    // that is missing.
    spec.resolved.retain(|(key, _)| *key != TIE);
    spec.resolved.push((TIE, false.into()));
    let kv_heads = spec.attentions().next().map(|attention| attention.kv_heads);
    spec.resolved.extend(kv_heads.map(|heads| ("num_key_value_heads", heads.into())));
    Ok(spec)
}
