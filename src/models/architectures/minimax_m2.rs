//! `MiniMax` M2: a norm over all heads of queries and keys, a part of each head rotated, and experts in every block.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, Rope, Score};

/// Defaults of transformers' `MiniMaxM2Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 200_064),
    KeyDefault::size("hidden_size", 3072),
    KeyDefault::size("intermediate_size", 1536),
    KeyDefault::size("num_hidden_layers", 62),
    KeyDefault::size("num_attention_heads", 48),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 196_608).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 5_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
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
    let size = |key| config.require_size(key);
    let experts = ExpertsSpec::new(
        size("num_local_experts")?,
        size("num_experts_per_tok")?,
        size("intermediate_size")?,
    );
    let experts = ExpertsSpec {
        names: &NAMES,
        score: Score::Sigmoid,
        correction: true,
        ..experts.normalized(true, 0.0)
    };
    spec.set_experts(config, experts, |_| true)?;
    spec.extra.push(format!("model.layers.{}.", spec.blocks.len()));
    // mlx-lm has no default for these.
    let width = config.count("shared_intermediate_size")?.unwrap_or(experts.intermediate_size);
    let count = experts.count.into();
    spec.resolved.extend([
        ("rotary_dim", dims.into()),
        ("shared_intermediate_size", width.into()),
        ("num_local_experts", count),
    ]);
    Ok(spec)
}

/// Renames experts, which are called as Mixtral's.
pub fn rename(name: &str) -> Rename {
    super::mixtral::rename(name)
}
