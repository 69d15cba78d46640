//! K-EXAONE: EXAONE 4's attention with norms before each part, and experts as in GLM-4.5.

use super::exaone4;
use super::glm4_moe::groups;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{AttentionSpan, Biases, DecoderSpec, ExpertsSpec, Score};

/// Defaults of transformers' `ExaoneMoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 102_400),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 16_384),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::size("sliding_window", 4096).minor(),
    KeyDefault::nullable_size("sliding_window_pattern", 4).minor(),
    KeyDefault::size("first_k_dense_replace", 1).minor(),
    KeyDefault::size("moe_intermediate_size", 1024),
    KeyDefault::size("num_experts", 64),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::size("num_shared_experts", 1),
    KeyDefault::boolean("norm_topk_prob", true),
    KeyDefault::number("routed_scaling_factor", 2.5).minor(),
    KeyDefault::size("n_group", 1).minor(),
    KeyDefault::size("topk_group", 1).minor(),
];

/// Describes the decoder. Where some blocks have a window, only those are rotated.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_qk_norms();
    let is_sliding = exaone4::pattern(config)?;
    spec.set_sliding_windows(config, is_sliding)?;
    let slides = spec.attentions().any(|attention| attention.span != AttentionSpan::Full);
    for attention in spec.attentions_mut() {
        attention.rope = (!slides || attention.span != AttentionSpan::Full).then_some(0);
    }
    let size = |key| config.require_size(key);
    let width = size("moe_intermediate_size")?;
    let experts = ExpertsSpec::new(size("num_experts")?, size("num_experts_per_tok")?, width);
    let normalized = config.required("norm_topk_prob", ModelConfig::boolean)?;
    let experts = ExpertsSpec {
        score: Score::Sigmoid,
        correction: true,
        groups: groups(config, experts.count)?,
        factor: config.required("routed_scaling_factor", ModelConfig::positive)? as f32,
        ..experts.normalized(normalized, 1e-20)
    };
    let is_sparse = sparse_blocks(config, spec.blocks.len())?;
    spec.set_experts(config, experts, |block| is_sparse[block])?;
    spec.set_shared_experts(width * size("num_shared_experts")?, None);
    spec.extra.push("mtp.".to_owned());
    spec.write_layer_types();
    let head_dim = spec.attentions().next().map(|attention| attention.head_dim);
    spec.resolved.extend([("is_moe_layer", is_sparse.into()), ("head_dim", head_dim.into())]);
    Ok(spec)
}

/// Returns which of `count` blocks have experts: by `mlp_layer_types` or `is_moe_layer`, or else all but the first.
fn sparse_blocks(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    let kinds = config.strings("mlp_layer_types")?;
    let kinds = kinds.map(|kinds| kinds.iter().map(|kind| kind == "sparse").collect());
    let flags = if kinds.is_some() { kinds } else { config.booleans("is_moe_layer")? };
    let flags: Vec<bool> = flags.unwrap_or_else(|| (0..count).map(|block| block >= dense).collect());
    if flags.len() != count {
        let message = format!("{} entries for {count} layers", flags.len());
        return Err(config.error("mlp_layer_types", message));
    }
    Ok(flags)
}

/// Renames experts, and the correction, which mlx-lm has beside the router.
pub fn rename(name: &str) -> Rename {
    match name.strip_suffix(".mlp.e_score_correction_bias") {
        Some(block) => Rename::To(format!("{block}.mlp.gate.e_score_correction_bias")),
        None => rename_experts(name),
    }
}
