//! GLM-4.5 to 4.7: a part of each head rotated, a sigmoid per expert with a correction for the choice, and shared experts; the
//! first blocks have one MLP.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{Biases, DecoderSpec, EXPERT_NAMES, Rope};

/// Defaults of transformers' `Glm4MoeConfig`.
pub const DEFAULTS: &[KeyDefault] =
    extended!(llama::SHARED, &sizes([151_552, 4096, 10_944, 46, 96, 8]), EXPERTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::number("partial_rotary_factor", 0.5),
    KeyDefault::boolean("use_qk_norm", false),
    KeyDefault::size("n_shared_experts", 1),
    KeyDefault::size("first_k_dense_replace", 1).minor(),
];

/// Defaults that Solar Open and MiMo-V2-Flash have too.
pub(super) const EXPERTS: &[KeyDefault] = &[
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::size("moe_intermediate_size", 1408),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::size("n_routed_experts", 128),
    KeyDefault::number("routed_scaling_factor", 1.0).minor(),
    KeyDefault::size("n_group", 1).minor(),
    KeyDefault::size("topk_group", 1).minor(),
    KeyDefault::boolean("norm_topk_prob", true),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("n_routed_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    let mut spec = with_rope(config, 0.5)?;
    if config.required("use_qk_norm", ModelConfig::boolean)? {
        spec.set_qk_norms();
    }
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    spec.set_deepseek_experts(config, &EXPERT_NAMES, |block| block >= dense)?;
    spec.resolved.push(("rope_scaling", config.get("rope_scaling").cloned().unwrap_or_default()));
    Ok(spec)
}

/// Describes a decoder whose heads are rotated in part, the `usual` one unless the config says it, and whose head is not tied.
pub(super) fn with_rope(config: &ModelConfig, usual: f64) -> Result<DecoderSpec> {
    config.only_silu()?;
    let rope = Rope::partial(config, usual)?;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    let qkv = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    spec.note_rope_scaling(config);
    spec.note_head(config, false);
    spec.resolved.push(("partial_rotary_factor", share.into()));
    Ok(spec)
}
