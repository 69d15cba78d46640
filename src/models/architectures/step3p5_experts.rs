//! Experts of Step 3.5: sigmoids as scores with a correction for the choice, a shared expert, and limits on gate and up.

use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::{Activation, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, MlpSpec};

const NAMES: ExpertNames = ExpertNames {
    router: "gate.gate",
    correction: "gate.router_bias",
    shared: "share_expert",
    ..EXPERT_NAMES
};

/// Makes MLPs of experts and a shared one, in the blocks that `moe_layers_enum` lists or all but the first three, and clamps gate
/// and up where a limit says so.
pub(super) fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    let keys = ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"];
    let experts = ExpertsSpec::from_config(config, keys)?.corrected_sigmoids(&NAMES);
    let normalized = config.boolean("norm_expert_weight")?.unwrap_or(true);
    let factor = config.factor("moe_router_scaling_factor")?;
    let experts = ExpertsSpec { factor, ..experts.normalized(normalized, 1e-20) };
    let blocks: Vec<usize> = match config.string("moe_layers_enum")? {
        Some(text) => text.split(',').filter_map(|number| number.trim().parse().ok()).collect(),
        None => (3..spec.blocks.len()).collect(),
    };
    spec.set_experts(config, experts, |block| blocks.contains(&block))?;
    spec.set_shared_experts(config.require_size("share_expert_dim")?, None);
    let limits = |key| config.numbers_of_layers(key, spec.blocks.len());
    let (own, shared) = (limits("swiglu_limits")?, limits("swiglu_limits_shared")?);
    let limit = |limits: &Option<Vec<f64>>, block: usize| limits.as_ref().map_or(0.0, |limits| limits[block]);
    for (block, mlp) in spec.mlps_mut().enumerate() {
        clamp(mlp, limit(if mlp.experts.is_some() { &own } else { &shared }, block));
        if let Some(experts) = &mut mlp.shared {
            clamp(&mut experts.mlp, limit(&shared, block));
        }
    }
    let enumerated: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    spec.resolved.extend([
        ("moe_layers_enum", enumerated.join(",").into()),
        ("moe_num_experts", experts.count.into()),
        ("moe_top_k", experts.per_token.into()),
    ]);
    spec.leave_further_blocks();
    Ok(())
}

/// Clamps gate and up, where the limit is more than 0.
fn clamp(mlp: &mut MlpSpec, limit: f64) {
    if limit > 0.0 {
        mlp.activation = Activation::ClampedSilu { limit: limit as f32 };
    }
}
