//! Laguna: heads and a rotation per kind of block, a softplus per head on attention's output, and experts.

use super::laguna_experts::set_experts;
use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{AttentionGate, Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, Rope};

/// Defaults of transformers' `LagunaConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([100_352, 2048, 8192, 40, 48, 8]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::number("rope_local_base_freq", 10_000.0).minor(),
    KeyDefault::number("partial_rotary_factor", 0.5),
    KeyDefault::size("sliding_window", 512).minor(),
    KeyDefault::size("moe_intermediate_size", 512),
    KeyDefault::size("shared_expert_intermediate_size", 512),
    KeyDefault::size("num_experts", 256),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::boolean("gating", true),
    KeyDefault::number("moe_routed_scaling_factor", 1.0).minor(),
    KeyDefault::number("moe_router_logit_softcapping", 0.0).minor(),
];

const NAMES: ModuleNames = ModuleNames { attention_gate: "g_proj", ..LLAMA_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    for key in
        ["attention_bias", "qkv_bias", "moe_apply_router_weight_on_input", "swa_attention_sink_enabled"]
    {
        config.only(key, &false.into())?;
    }
    if config.get("gating") != Some(&"per-head".into()) {
        config.only("gating", &true.into())?;
    }
    if config.get("rope_parameters.full_attention").is_none() {
        return Err(config.error("rope_parameters", "has no rotation for full_attention"));
    }
    let ropes = Rope::by_layer_type(config, "rope_local_base_freq")?;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.set_names(&NAMES);
    spec.set_biases(Biases::default());
    spec.set_qk_norms();
    spec.set_sliding_windows(config, |_| false)?;
    spec.set_ropes_by_span();
    spec.set_heads_by_block(config, "num_attention_heads_per_layer")?;
    spec.attentions_mut().for_each(|attention| attention.gate = Some(AttentionGate::PerHeadSoftplus));
    set_experts(config, &mut spec)?;
    spec.write_layer_types();
    spec.write_ropes(config);
    Ok(spec)
}
