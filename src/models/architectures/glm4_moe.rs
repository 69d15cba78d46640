//! GLM-4.5 to 4.7: a part of each head rotated, a sigmoid per expert with a correction for the choice, and shared experts; the
//! first blocks have one MLP.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, ExpertsSpec, Groups, Rope, Score};

/// Defaults of transformers' `Glm4MoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_552),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 10_944),
    KeyDefault::size("num_hidden_layers", 46),
    KeyDefault::size("num_attention_heads", 96),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", 0.5),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("use_qk_norm", false),
    KeyDefault::size("moe_intermediate_size", 1408),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::size("n_shared_experts", 1),
    KeyDefault::size("n_routed_experts", 128),
    KeyDefault::number("routed_scaling_factor", 1.0).minor(),
    KeyDefault::size("n_group", 1).minor(),
    KeyDefault::size("topk_group", 1).minor(),
    KeyDefault::size("first_k_dense_replace", 1).minor(),
    KeyDefault::boolean("norm_topk_prob", true),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("n_routed_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    config.only_silu()?;
    let rope = Rope::partial(config, 0.5)?;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    let qkv = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    if config.required("use_qk_norm", ModelConfig::boolean)? {
        spec.set_qk_norms();
    }
    spec.note_rope_scaling(config);
    spec.note_head(config, false);
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    set_experts(config, &mut spec, |block| block >= dense)?;
    spec.resolved.extend([
        ("partial_rotary_factor", share.into()),
        ("rope_scaling", config.get("rope_scaling").cloned().unwrap_or_default()),
    ]);
    Ok(spec)
}

/// Makes MLPs of experts and shared ones, whose keys are DeepSeek's, with sigmoids as scores. Blocks past the last predict
/// further tokens.
pub(super) fn set_experts(
    config: &ModelConfig,
    spec: &mut DecoderSpec,
    sparse: impl Fn(usize) -> bool,
) -> Result<()> {
    let size = |key| config.require_size(key);
    let width = size("moe_intermediate_size")?;
    let experts = ExpertsSpec::new(size("n_routed_experts")?, size("num_experts_per_tok")?, width);
    let normalized = config.boolean("norm_topk_prob")?.unwrap_or(false);
    let experts = ExpertsSpec {
        score: Score::Sigmoid,
        correction: true,
        groups: groups(config, experts.count)?,
        factor: config.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        ..experts.normalized(normalized, 1e-20)
    };
    spec.set_experts(config, experts, sparse)?;
    if let Some(shared) = config.count("n_shared_experts")?.filter(|&shared| shared > 0) {
        spec.set_shared_experts(width * shared, None);
    }
    spec.extra.push(format!("model.layers.{}.", spec.blocks.len()));
    let head_dim = spec.attentions().next().map(|attention| attention.head_dim);
    spec.resolved.extend([
        ("n_routed_experts", experts.count.into()),
        ("head_dim", head_dim.into()),
        ("norm_topk_prob", normalized.into()),
    ]);
    Ok(())
}

/// Reads the groups of `count` experts; `None` where all of them are chosen.
pub(super) fn groups(config: &ModelConfig, count: usize) -> Result<Option<Groups>> {
    let groups = config.size("n_group")?.unwrap_or(1);
    let chosen = config.size("topk_group")?.unwrap_or(1);
    if !count.is_multiple_of(groups) {
        return Err(config.error("n_group", format!("{groups} groups do not divide {count} experts")));
    }
    Ok((groups > 1 && chosen < groups).then_some(Groups { count: groups, chosen }))
}
