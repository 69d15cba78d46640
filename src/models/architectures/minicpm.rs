//! `MiniCPM` 1 and 2: Llama's block with factors on the embedding, what each part gives, and the logits.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec};

/// Defaults of its makers' `MiniCPMConfig`.
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
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
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
    let factor = |key| Ok::<_, crate::error::Error>(config.required(key, ModelConfig::positive)? as f32);
    let depth = factor("scale_depth")? / (spec.blocks.len() as f32).sqrt();
    for block in &mut spec.blocks {
        (block.attention.factor, block.mlp.factor) = (Some(depth), Some(depth));
    }
    spec.embed.scale = Some(factor("scale_emb")?);
    spec.head.scale = Some(factor("dim_model_base")? / spec.hidden_size as f32);
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
