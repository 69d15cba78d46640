//! Experts of Laguna: scores by a sigmoid or the root of a softplus, a correction for the choice, and a shared one.

use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{
    DecoderSpec, EXPERT_KEYS, EXPERT_NAMES, ExpertNames, ExpertsSpec, Score, sparse_blocks,
};

const NAMES: ExpertNames = ExpertNames { router: "gate.proj", shared: "shared_expert", ..EXPERT_NAMES };

/// Makes MLPs of experts, in all blocks but the first where the config does not say which.
pub(super) fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    let score = match config.string("moe_router_score_func")? {
        None | Some("sigmoid") => Score::Sigmoid,
        Some("sqrtsoftplus") => Score::SqrtSoftplus,
        Some(other) => {
            let message = format!("`{other}` is not supported, only sigmoid and sqrtsoftplus");
            return Err(config.error("moe_router_score_func", message));
        }
    };
    let experts =
        ExpertsSpec::from_config(config, EXPERT_KEYS)?.corrected_sigmoids(&NAMES).normalized(true, 0.0);
    let cap = config.number("moe_router_logit_softcapping")?.filter(|&cap| cap > 0.0).map(|cap| cap as f32);
    let factor = config.positive("moe_routed_scaling_factor")?.unwrap_or(1.0) as f32;
    let is_sparse = sparse_blocks(config, "is_moe_layer", spec.blocks.len(), |block| block > 0)?;
    spec.set_experts(config, ExpertsSpec { cap, score, factor, ..experts }, |block| is_sparse[block])?;
    spec.set_shared_experts(config.require_size("shared_expert_intermediate_size")?, None);
    Ok(())
}

/// Renames experts and what chooses them.
pub(super) fn rename(name: &str) -> Rename {
    let to = |block: &str, rest: &str| Rename::To(format!("{block}.mlp.{rest}"));
    if let Some(block) = name.strip_suffix(".mlp.gate.weight") {
        return to(block, "gate.proj.weight");
    }
    if let Some(block) = name.strip_suffix(".mlp.experts.e_score_correction_bias") {
        return to(block, "gate.e_score_correction_bias");
    }
    match name.split_once(".mlp.shared_experts.") {
        Some((block, rest)) => to(block, &format!("shared_expert.{rest}")),
        None => rename_experts(name),
    }
}
