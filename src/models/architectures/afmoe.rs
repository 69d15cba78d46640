//! Trinity (`AFMoE`): a gate on attention's output, windows with a rotation and full attention without, norms before and after
//! each part, and experts after the first blocks.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{
    AttentionGate, AttentionSpan, Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, Score,
};

/// Defaults of transformers' `AfmoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 200_192),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 6144),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 16_384).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::nullable_size("sliding_window", 1024).minor(),
    KeyDefault::nullable_size("global_attn_every_n_layers", 4).minor(),
    KeyDefault::size("moe_intermediate_size", 1408),
    KeyDefault::nullable_size("num_experts", 64),
    KeyDefault::nullable_size("num_experts_per_tok", 6),
    KeyDefault::nullable_size("num_shared_experts", 2),
    KeyDefault::nullable_size("num_dense_layers", 1).minor(),
    KeyDefault::nullable_number("route_scale", 1.0).minor(),
    KeyDefault::nullable_boolean("mup_enabled", false),
];

const NAMES: ExpertNames =
    ExpertNames { router: "router.gate", experts: "experts", correction: "expert_bias", ..EXPERT_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    for (key, only) in [("attention_bias", false.into()), ("route_norm", true.into())] {
        config.only(key, &only)?;
    }
    config.only("score_func", &"sigmoid".into())?;
    config.only("n_group", &1.into())?;
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_qk_norms();
    spec.set_norms_after();
    for block in &mut spec.blocks {
        let (path, mlp) = (&block.path, &mut block.mlp);
        for (norm, name) in [(&mut mlp.before, "pre_mlp_layernorm"), (&mut mlp.after, "post_mlp_layernorm")] {
            for norm in norm.iter_mut() {
                norm.path = format!("{path}.{name}");
            }
        }
    }
    let distance = config.size("global_attn_every_n_layers")?.unwrap_or(1);
    spec.set_sliding_windows(config, |block| !(block + 1).is_multiple_of(distance))?;
    for attention in spec.attentions_mut() {
        attention.gate = Some(AttentionGate::PerValue);
        attention.rope = (attention.span != AttentionSpan::Full).then_some(0);
    }
    if config.boolean("mup_enabled")?.unwrap_or(false) {
        spec.embed.scale = Some((spec.hidden_size as f32).sqrt());
    }
    let size = |key| config.require_size(key);
    let width = size("moe_intermediate_size")?;
    let experts = ExpertsSpec::new(size("num_experts")?, size("num_experts_per_tok")?, width);
    let experts = ExpertsSpec {
        names: &NAMES,
        score: Score::Sigmoid,
        correction: true,
        factor: config.positive("route_scale")?.unwrap_or(1.0) as f32,
        ..experts.normalized(true, 1e-20)
    };
    let dense = config.count("num_dense_layers")?.unwrap_or(0);
    spec.set_experts(config, experts, |block| block >= dense)?;
    spec.set_shared_experts(width * size("num_shared_experts")?, None);
    spec.write_layer_types();
    Ok(spec)
}
