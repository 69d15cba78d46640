//! Step 3.5: windows with more heads, a part of each head rotated by the kind of block, a gate per head, and experts whose gate and
//! up are clamped in some blocks.

use super::llama;
use super::names::TensorShapes;
use super::step3p5_experts::set_experts;
use super::step3p5_keys::{OTHER, heads_of_windows, read};
use super::step3p5_ropes::ropes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{AttentionGate, AttentionSpan, DecoderSpec, LLAMA_NAMES, ModuleNames};

/// Defaults of transformers' `Step3p7TextConfig`, which is the class of `step3p5`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([128_815, 4096, 11_264, 45, 64, 8]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 128_000).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::boolean("mlp_bias", false),
    KeyDefault::optional_size("sliding_window"),
    KeyDefault::size("moe_intermediate_size", 1280),
    KeyDefault::size("n_routed_experts", 288),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::size("share_expert_dim", 1280),
    KeyDefault::number("moe_router_scaling_factor", 1.0).minor(),
];

const NAMES: ModuleNames = ModuleNames { attention_gate: "g_proj", ..LLAMA_NAMES };

/// Describes the decoder. The weights of norms are stored less 1.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &read(config)?;
    let mut spec = DecoderSpec::with_ropes(config, Vec::new())?;
    spec.set_names(&NAMES);
    spec.set_qk_norms();
    spec.set_sliding_windows(config, |_| false)?;
    let slides: Vec<bool> =
        spec.attentions().map(|attention| attention.span != AttentionSpan::Full).collect();
    spec.set_layer_ropes(ropes(config, &slides)?);
    let heads = heads_of_windows(config)?;
    for block in (0..slides.len()).filter(|&block| slides[block]) {
        spec.set_heads(config, OTHER, block, heads)?;
    }
    if config.boolean("use_head_wise_attn_gate")?.unwrap_or(true) {
        spec.attentions_mut().for_each(|attention| attention.gate = Some(AttentionGate::PerHead));
    }
    set_experts(config, &mut spec)?;
    spec.write_layer_types();
    spec.note_head(config, false);
    for key in ["num_attention_groups", "yarn_only_types"] {
        spec.resolved.extend(config.get(key).map(|value| (key, value.clone())));
    }
    Ok(spec)
}
