//! `MiniMax` M2: a norm over all heads of queries and keys, a part of each head rotated, and experts in every block.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{
    Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, LOCAL_EXPERT_KEYS, Rope,
};

/// Defaults of transformers' `MiniMaxM2Config`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::USUAL, &sizes([200_064, 3072, 1536, 62, 48, 8]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 196_608).minor(),
    KeyDefault::number("rope_theta", 5_000_000.0),
    KeyDefault::size("num_local_experts", 256),
    KeyDefault::size("num_experts_per_tok", 8),
];

const NAMES: ExpertNames = ExpertNames { correction: "e_score_correction_bias", ..EXPERT_NAMES };

/// Describes the decoder. `rotary_dim` says how much of a head is rotated.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_local_experts", "num_experts")?.with_defaults(DEFAULTS);
    config.only_silu()?;
    let mut rope = Rope::partial(config, 1.0)?;
    rope.dims = config.size("rotary_dim")?.unwrap_or(rope.dims);
    let dims = rope.dims;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_biases(Biases::default());
    spec.set_mlp_name("block_sparse_moe");
    if config.boolean("use_qk_norm")?.unwrap_or(true) {
        spec.set_norms_of_all_heads();
    }
    spec.note_rope_scaling(config);
    let experts =
        ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?.corrected_sigmoids(&NAMES).normalized(true, 0.0);
    spec.set_experts(config, experts, |_| true)?;
    spec.leave_further_blocks();
    // mlx-lm has no default for these.
    let width = config.count("shared_intermediate_size")?.unwrap_or(experts.intermediate_size);
    spec.resolved.extend([
        ("rotary_dim", dims.into()),
        ("shared_intermediate_size", width.into()),
        ("num_local_experts", experts.count.into()),
    ]);
    Ok(spec)
}
