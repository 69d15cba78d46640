//! Mellum 2: Qwen3's attention with a rotation per kind of block, and experts.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionSpan, Biases, DecoderSpec, ExpertsSpec, Rope};

/// Defaults of transformers' `MellumConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 98_304),
    KeyDefault::size("hidden_size", 2304),
    KeyDefault::size("intermediate_size", 7168),
    KeyDefault::size("num_hidden_layers", 28),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::number("rope_local_base_freq", 10_000.0).minor(),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::nullable_size("sliding_window", 1024).minor(),
    KeyDefault::size("moe_intermediate_size", 896),
    KeyDefault::size("num_experts", 64),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::boolean("norm_topk_prob", true),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    let ropes = Rope::by_layer_type(config, "rope_local_base_freq")?;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.set_qk_norms();
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    if bias {
        spec.notes.push("mlx-lm's mellum cannot load a model with biases".to_owned());
    }
    spec.set_sliding_windows(config, |_| false)?;
    for attention in spec.attentions_mut() {
        attention.rope = Some(usize::from(attention.span != AttentionSpan::Full));
    }
    let size = |key| config.require_size(key);
    let experts =
        ExpertsSpec::new(size("num_experts")?, size("num_experts_per_tok")?, size("moe_intermediate_size")?);
    let experts = experts.normalized(config.required("norm_topk_prob", ModelConfig::boolean)?, 0.0);
    let kinds = config.strings("mlp_layer_types")?.unwrap_or_default();
    spec.set_experts(config, experts, |block| kinds.get(block).is_none_or(|kind| kind == "sparse"))?;
    spec.extra.push("mtp.".to_owned());
    spec.write_layer_types();
    write_ropes(config, &mut spec);
    Ok(spec)
}

/// Writes both rotations where mlx-lm reads them, if config.json leaves them out, and notes what it does not read.
pub(super) fn write_ropes(config: &ModelConfig, spec: &mut DecoderSpec) {
    if config.get("rope_parameters.full_attention.attention_factor").is_some() {
        spec.notes.push(
            "attention_factor of yarn is applied as transformers does; mlx-lm computes its own".to_owned(),
        );
    }
    if config.get("rope_parameters").is_none() {
        let plain = |rope: &Rope| serde_json::json!({"rope_type": "default", "rope_theta": rope.theta});
        let both = serde_json::json!({"full_attention": plain(&spec.ropes[0]),
            "sliding_attention": plain(&spec.ropes[1])});
        spec.resolved.push(("rope_parameters", both));
    }
}
