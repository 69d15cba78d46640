//! Mellum 2: Qwen3's attention with a rotation per kind of block, and experts.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{Biases, DecoderSpec, EXPERT_KEYS, ExpertsSpec, Rope, sparse_blocks};

/// Defaults of transformers' `MellumConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([98_304, 2304, 7168, 28, 32, 4]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::number("rope_local_base_freq", 10_000.0).minor(),
    KeyDefault::nullable_size("sliding_window", 1024).minor(),
    KeyDefault::size("moe_intermediate_size", 896),
    KeyDefault::size("num_experts", 64),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::boolean("norm_topk_prob", true),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    config.only_silu()?;
    let ropes = Rope::by_layer_type(config, "rope_local_base_freq")?;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.set_qk_norms();
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    spec.note_biases_of_queries(config);
    spec.set_sliding_windows(config, |_| false)?;
    spec.set_ropes_by_span();
    let experts = ExpertsSpec::from_config(config, EXPERT_KEYS)?.normalized_if_said(config, 0.0)?;
    let is_sparse = sparse_blocks(config, "is_moe_layer", spec.blocks.len(), |_| true)?;
    spec.set_experts(config, experts, |block| is_sparse[block])?;
    // mlx-lm knows the one name only.
    spec.resolved.push(("num_experts", experts.count.into()));
    spec.extra.push("mtp.".to_owned());
    spec.write_layer_types();
    spec.write_ropes(config);
    Ok(spec)
}
