//! Solar Open: Llama's block, with experts as in GLM-4.5 in every block.

use super::glm4_moe;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, Rope};

/// Defaults of transformers' `SolarOpenConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 196_608),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::optional_size("intermediate_size"),
    KeyDefault::size("num_hidden_layers", 48),
    KeyDefault::size("num_attention_heads", 64),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::size("moe_intermediate_size", 1280),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::size("n_shared_experts", 1),
    KeyDefault::size("n_routed_experts", 128),
    KeyDefault::number("routed_scaling_factor", 1.0).minor(),
    KeyDefault::size("n_group", 1).minor(),
    KeyDefault::size("topk_group", 1).minor(),
    KeyDefault::boolean("norm_topk_prob", true),
];

/// Describes the decoder. mlx-lm reads it as GLM-4.5, with no block without experts and whole heads rotated.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_alias("n_routed_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    let width = config.require_size("moe_intermediate_size")?;
    let width = config.size("intermediate_size")?.unwrap_or(width);
    let config = &config.with_value("intermediate_size", width.into());
    config.only_silu()?;
    let rope = Rope::partial(config, 1.0)?;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    let qkv = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    spec.note_rope_scaling(config);
    spec.note_head(config, false);
    glm4_moe::set_experts(config, &mut spec, |_| true)?;
    spec.resolved.extend([
        ("intermediate_size", width.into()),
        ("first_k_dense_replace", 0.into()),
        ("partial_rotary_factor", share.into()),
    ]);
    Ok(spec)
}
