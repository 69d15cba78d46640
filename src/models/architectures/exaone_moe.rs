//! K-EXAONE: EXAONE 4's attention with norms before each part, and experts as in GLM-4.5.

use super::exaone4;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{
    Biases, DecoderSpec, EXPERT_KEYS, EXPERT_NAMES, ExpertsSpec, WindowPattern, groups, sparse_blocks,
};

/// Defaults of transformers' `ExaoneMoeConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(exaone4::SHARED, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("sliding_window", 4096).minor(),
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
    let pattern = WindowPattern::from_config(config, "sliding_window_pattern")?;
    spec.set_sliding_windows(config, |block| pattern.is_sliding(block))?;
    if spec.has_windows() {
        spec.rotate_windows_only();
    }
    let experts = ExpertsSpec::from_config(config, EXPERT_KEYS)?.corrected_sigmoids(&EXPERT_NAMES);
    let experts = experts.normalized_if_said(config, 1e-20)?;
    let (groups, factor) = (groups(config, experts.count)?, config.factor("routed_scaling_factor")?);
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    let is_sparse = sparse_blocks(config, "is_moe_layer", spec.blocks.len(), |block| block >= dense)?;
    spec.set_experts(config, ExpertsSpec { groups, factor, ..experts }, |block| is_sparse[block])?;
    spec.set_shared_experts(experts.intermediate_size * config.require_size("num_shared_experts")?, None);
    spec.extra.push("mtp.".to_owned());
    spec.write_layer_types();
    let head_dim = spec.attentions().next().map(|attention| attention.head_dim);
    spec.resolved.extend([("is_moe_layer", is_sparse.into()), ("head_dim", head_dim.into())]);
    Ok(spec)
}

/// Renames experts, and the correction, which mlx-lm has beside the router.
pub fn rename(name: &str) -> Rename {
    match name.strip_suffix(".mlp.e_score_correction_bias") {
        Some(block) => Rename::To(format!("{block}.mlp.gate.e_score_correction_bias")),
        None => rename_experts(name),
    }
}
