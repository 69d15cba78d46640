//! Experts of `BailingMoE`: softmax or sigmoids as scores, groups, and shared experts.

use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{DecoderSpec, EXPERT_KEYS, EXPERT_NAMES, ExpertNames, ExpertsSpec, Score, groups};

/// Defaults of mlx-lm's arguments.
pub(super) const EXPERTS: &[KeyDefault] = &[
    KeyDefault::boolean("moe_router_enable_expert_bias", false),
    KeyDefault::boolean("moe_router_enable_routed_scaling", true),
    KeyDefault::boolean("moe_router_enable_shared_expert", true),
    KeyDefault::number("routed_scaling_factor", 1.0).minor(),
    KeyDefault::text("score_function", "softmax"),
    KeyDefault::size("n_group", 1).minor(),
    KeyDefault::size("topk_group", 4).minor(),
];

const NAMES: ExpertNames =
    ExpertNames { router: "gate.gate_proj", correction: "gate.expert_bias", ..EXPERT_NAMES };

/// Makes MLPs of experts after the first blocks; their layers have biases where `bias` says so.
pub(super) fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec, bias: bool) -> Result<()> {
    let flag = |key| config.required(key, ModelConfig::boolean);
    let experts = ExpertsSpec::from_config(config, EXPERT_KEYS)?.normalized_if_said(config, 1e-20)?;
    let score = match config.string("score_function")? {
        Some("sigmoid") => Score::Sigmoid,
        Some("softmax") => Score::Softmax,
        other => {
            let message = format!("{} is not supported, only softmax and sigmoid", other.unwrap_or("null"));
            return Err(config.error("score_function", message));
        }
    };
    let experts = ExpertsSpec {
        names: &NAMES,
        bias,
        score,
        correction: flag("moe_router_enable_expert_bias")?,
        groups: groups(config, experts.count)?,
        factor: config.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        ..experts
    };
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    spec.set_experts(config, experts, |block| block >= dense)?;
    if flag("moe_router_enable_shared_expert")? {
        let width = config.size("moe_shared_expert_intermediate_size")?.unwrap_or(experts.intermediate_size);
        spec.set_counted_shared_experts(config, "num_shared_experts", width)?;
    }
    spec.resolved.push(("first_k_dense_replace", dense.into()));
    spec.leave_further_blocks();
    Ok(())
}

/// Renames experts and the router.
pub(super) fn rename(name: &str) -> Rename {
    let router =
        name.strip_suffix(".mlp.gate.weight").map(|block| format!("{block}.mlp.gate.gate_proj.weight"));
    router.map_or_else(|| rename_experts(name), Rename::To)
}
