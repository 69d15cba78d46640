//! Experts of Step 3.5: sigmoids as scores with a correction for the choice, a shared expert, and limits on gate and up.

use super::step3p5_names::EXPERTS;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::{Activation, DecoderSpec, ExpertsSpec, MlpSpec, sparse_blocks};

/// Makes MLPs of experts and a shared one, in the blocks that are listed or all but the first three, and clamps gate and up where a
/// limit says so.
pub(super) fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    let keys = ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"];
    let experts = ExpertsSpec::from_config(config, keys)?.corrected_sigmoids(&EXPERTS);
    let normalized = config.boolean("norm_expert_weight")?.unwrap_or(true);
    let factor = config.factor("moe_router_scaling_factor")?;
    let experts = ExpertsSpec { factor, ..experts.normalized(normalized, 1e-20) };
    let count = spec.blocks.len();
    let listed = listed_blocks(config)?.unwrap_or_else(|| (3..count).collect());
    let is_sparse = sparse_blocks(config, "is_moe_layer", count, |block| listed.contains(&block))?;
    spec.set_experts(config, experts, |block| is_sparse[block])?;
    spec.set_shared_experts(config.require_size("share_expert_dim")?, None);
    let limits = |key| config.numbers_of_layers(key, spec.blocks.len());
    let (own, shared) = (limits("swiglu_limits")?, limits("swiglu_limits_shared")?);
    let limit = |limits: &Option<Vec<f64>>, block: usize| limits.as_ref().map_or(0.0, |limits| limits[block]);
    for (block, mlp) in spec.mlps_mut().enumerate() {
        let limits = if mlp.experts.is_some() { &own } else { &shared };
        clamp(mlp, limit(limits, block));
        if let Some(experts) = &mut mlp.shared {
            clamp(&mut experts.mlp, limit(&shared, block));
        }
    }
    let sparse = (0..count).filter(|&block| is_sparse[block]);
    let enumerated: Vec<String> = sparse.map(|block| block.to_string()).collect();
    spec.resolved.extend([
        ("moe_layers_enum", enumerated.join(",").into()),
        ("moe_num_experts", experts.count.into()),
        ("moe_top_k", experts.per_token.into()),
    ]);
    spec.leave_further_blocks();
    Ok(())
}

/// Reads the blocks that `moe_layers_enum` lists, with commas between them; `None` where it is absent.
fn listed_blocks(config: &ModelConfig) -> Result<Option<Vec<usize>>> {
    const KEY: &str = "moe_layers_enum";
    let Some(text) = config.string(KEY)? else { return Ok(None) };
    let blocks: Result<Vec<usize>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    blocks.map(Some).map_err(|_| config.error(KEY, format!("expected numbers and commas, found `{text}`")))
}

/// Clamps gate and up, where the limit is more than 0.
fn clamp(mlp: &mut MlpSpec, limit: f64) {
    if limit > 0.0 {
        mlp.activation = Activation::ClampedSilu { limit: limit as f32 };
    }
}
