//! Spark X2.5: Llama's block with GELU, a gate on what each head gives, and a rotation per kind of block.

use super::module_names::SPARK2_5;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_common};
use crate::models::spec::{Activation, AttentionGate, AttentionSpan, DecoderSpec, Projections, Rope};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::text("hidden_act", "gelu"),
    KeyDefault::size("max_position_embeddings", 8192).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
    KeyDefault::boolean("headwise_attn_output_gate", true),
    KeyDefault::text("gate_attn_act_mode", "sigmoid"),
];

/// Describes the decoder. Without `layer_types` every fourth block has no window.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    for (key, only) in [
        ("hidden_act", "gelu".into()),
        ("gate_attn_act_mode", "sigmoid".into()),
        ("headwise_attn_output_gate", true.into()),
    ] {
        config.only(key, &only)?;
    }
    let ropes = Rope::by_layer_type(config, "rope_theta")?;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.set_names(&SPARK2_5);
    spec.set_sliding_windows(config, |layer| !(layer + 1).is_multiple_of(4))?;
    for attention in spec.attentions_mut() {
        attention.projections = Projections::Fused;
        attention.gate = Some(AttentionGate::PerHead);
        attention.rope = Some(usize::from(attention.span != AttentionSpan::Full));
    }
    spec.mlps_mut().for_each(|mlp| mlp.activation = Activation::Gelu);
    Ok(spec)
}

/// Names the embedding, which some call as Llama does.
pub fn rename(name: &str) -> Rename {
    match name.strip_prefix("model.embed_tokens.") {
        Some(rest) => Rename::To(format!("model.embedding.{rest}")),
        None => rename_common(name),
    }
}
