//! Trinity (`AFMoE`): gated attention, rotated in windows only, norms before and after each part, and experts.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{
    AttentionGate, Biases, DecoderSpec, EXPERT_KEYS, EXPERT_NAMES, ExpertNames, ExpertsSpec,
};

/// Defaults of transformers' `AfmoeConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([200_192, 2048, 6144, 32, 16, 0]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 16_384).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
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
    let only = [("attention_bias", false.into()), ("route_norm", true.into()), ("n_group", 1.into())];
    only.iter().try_for_each(|(key, only)| config.only(key, only))?;
    config.only("score_func", &"sigmoid".into())?;
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_qk_norms();
    spec.set_norms_after();
    spec.name_norms_of_mlps("pre_mlp_layernorm", "post_mlp_layernorm");
    let distance = config.size("global_attn_every_n_layers")?.unwrap_or(1);
    spec.set_sliding_windows(config, |block| !(block + 1).is_multiple_of(distance))?;
    spec.rotate_windows_only();
    spec.attentions_mut().for_each(|attention| attention.gate = Some(AttentionGate::PerValue));
    let is_scaled = config.boolean("mup_enabled")?.unwrap_or(false);
    spec.embed.scale = is_scaled.then_some((spec.hidden_size as f32).sqrt());
    let experts =
        ExpertsSpec::from_config(config, EXPERT_KEYS)?.corrected_sigmoids(&NAMES).normalized(true, 1e-20);
    let factor = config.positive("route_scale")?.unwrap_or(1.0) as f32;
    let dense = config.count("num_dense_layers")?.unwrap_or(0);
    spec.set_experts(config, ExpertsSpec { factor, ..experts }, |block| block >= dense)?;
    spec.set_shared_experts(experts.intermediate_size * config.require_size("num_shared_experts")?, None);
    spec.write_layer_types();
    Ok(spec)
}
