//! Qwen1.5 and Qwen2 with experts: Qwen2's attention, and beside the chosen experts one that every token goes through, with a
//! gate.

use super::names::TensorShapes;
use super::qwen3_moe;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, SharedGate};

/// Defaults of transformers' `Qwen2MoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_936),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 5632),
    KeyDefault::size("num_hidden_layers", 24),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::nullable_size("num_key_value_heads", 16),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
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
    let qkv = config.required("qkv_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    spec.note_biases(config, qkv);
    let late = config.require_size("max_window_layers")?;
    if config.required("use_sliding_window", ModelConfig::boolean)? {
        spec.set_sliding_windows(config, |block| block < late && block.is_multiple_of(2))?;
        spec.notes.push("sliding windows are applied as transformers does; mlx-lm ignores them".to_owned());
    }
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    qwen3_moe::set_experts(config, &mut spec)?;
    spec.mlps_mut().filter_map(|mlp| mlp.experts.as_mut()).for_each(|experts| experts.names = &NAMES);
    spec.set_shared_experts(
        config.require_size("shared_expert_intermediate_size")?,
        Some(SharedGate::Sigmoid),
    );
    if config.required("norm_topk_prob", ModelConfig::boolean)?
        || spec.mlps().any(|mlp| mlp.experts.is_none())
    {
        spec.notes.push(
            "norm_topk_prob, decoder_sparse_step and mlp_only_layers are honoured; mlx-lm's qwen2_moe ignores them"
                .to_owned(),
        );
    }
    Ok(spec)
}
