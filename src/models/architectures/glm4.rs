//! GLM-4 of April 2025 (9B and 32B 0414): norms before and after each part, half of each head rotated, gate and up in one
//! matrix.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, Projections, Rope};

/// Defaults of transformers' `Glm4Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_552),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 13_696),
    KeyDefault::size("num_hidden_layers", 40),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 2),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 0.000_000_156_25),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", ROTATED),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", true),
];

/// Part of each head that is rotated where the config does not say.
const ROTATED: f64 = 0.5;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = without_norms_after(&config.with_defaults(DEFAULTS))?;
    for block in &mut spec.blocks {
        block.attention.set_norm_after(format!("{}.post_self_attn_layernorm", block.path));
        block.mlp.set_norm_after(format!("{}.post_mlp_layernorm", block.path));
    }
    Ok(spec)
}

/// Describes what `glm` and `glm4` have in common, by a config with defaults.
pub(super) fn without_norms_after(config: &ModelConfig) -> Result<DecoderSpec> {
    config.only_silu()?;
    let mut rope = Rope::partial(config, ROTATED)?;
    rope.traditional = true;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.resolved.push(("partial_rotary_factor", share.into()));
    spec.attentions_mut().for_each(|attention| attention.o_bias = false);
    spec.mlps_mut().for_each(|mlp| {
        (mlp.projections, mlp.gate_up_bias, mlp.down_bias) = (Projections::Fused, false, false);
    });
    spec.note_rope_scaling(config);
    Ok(spec)
}
