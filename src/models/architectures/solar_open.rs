//! Solar Open: Llama's block, with experts as in GLM-4.5 in every block.

use super::names::TensorShapes;
use super::{glm4_moe, llama};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{DecoderSpec, EXPERT_NAMES};

/// Defaults of transformers' `SolarOpenConfig`.
pub const DEFAULTS: &[KeyDefault] =
    extended!(llama::SHARED, &sizes([196_608, 4096, 0, 48, 64, 8]), glm4_moe::EXPERTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::optional_size("intermediate_size"),
    KeyDefault::size("head_dim", 128),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::size("moe_intermediate_size", 1280),
    KeyDefault::size("n_shared_experts", 1),
];

/// Describes the decoder. mlx-lm reads it as GLM-4.5, with no block without experts and whole heads rotated.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_alias("n_routed_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    let width = config.require_size("moe_intermediate_size")?;
    let width = config.size("intermediate_size")?.unwrap_or(width);
    let config = &config.with_value("intermediate_size", width.into());
    let mut spec = glm4_moe::with_rope(config, 1.0)?;
    spec.set_deepseek_experts(config, &EXPERT_NAMES, |_| true)?;
    spec.resolved.extend([("intermediate_size", width.into()), ("first_k_dense_replace", 0.into())]);
    Ok(spec)
}
