//! Qwen1.5 and Qwen2 with experts: Qwen2's attention, and beside the chosen experts one that every token goes through, with a
//! gate.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, SharedGate};

/// Defaults of transformers' `Qwen2MoeConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::USUAL, &sizes([151_936, 2048, 5632, 24, 16, 16]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::boolean("qkv_bias", true),
    KeyDefault::boolean("use_sliding_window", false),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::size("max_window_layers", 28).minor(),
    KeyDefault::size("decoder_sparse_step", 1).minor(),
    KeyDefault::size("moe_intermediate_size", 1408),
    KeyDefault::size("shared_expert_intermediate_size", 5632),
    KeyDefault::size("num_experts", 60),
    KeyDefault::size("num_experts_per_tok", 4),
    KeyDefault::boolean("norm_topk_prob", false),
];

const NAMES: ExpertNames = ExpertNames { shared: "shared_expert", ..EXPERT_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    let flag = |key| config.required(key, ModelConfig::boolean);
    let qkv = flag("qkv_bias")?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    spec.note_biases(config, qkv);
    let late = config.require_size("max_window_layers")?;
    if flag("use_sliding_window")? {
        spec.set_sliding_windows(config, |block| block < late && block.is_multiple_of(2))?;
        spec.note_windows(config);
    }
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    spec.set_qwen_experts(config, &NAMES)?;
    let width = config.require_size("shared_expert_intermediate_size")?;
    spec.set_shared_experts(width, Some(SharedGate::Sigmoid));
    if flag("norm_topk_prob")? || spec.mlps().any(|mlp| mlp.experts.is_none()) {
        let keys = "norm_topk_prob, decoder_sparse_step and mlp_only_layers";
        spec.notes.push(format!("{keys} are honoured; mlx-lm's qwen2_moe ignores them"));
    }
    Ok(spec)
}
