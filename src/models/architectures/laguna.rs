//! Laguna: Qwen3's attention with a number of heads and a rotation per kind of block, a softplus per head on its output, and
//! experts after the first block.

use super::mellum::write_ropes;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{
    AttentionGate, AttentionSpan, Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, LLAMA_NAMES,
    ModuleNames, Rope, Score,
};

/// Defaults of transformers' `LagunaConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 100_352),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 8192),
    KeyDefault::size("num_hidden_layers", 40),
    KeyDefault::size("num_attention_heads", 48),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::number("rope_local_base_freq", 10_000.0).minor(),
    KeyDefault::number("partial_rotary_factor", 0.5),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
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
const EXPERTS: ExpertNames = ExpertNames { router: "gate.proj", shared: "shared_expert", ..EXPERT_NAMES };

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
    let count = spec.blocks.len();
    let heads = config.indices("num_attention_heads_per_layer")?;
    check_length(config, "num_attention_heads_per_layer", heads.as_deref(), count)?;
    for (block, attention) in spec.attentions_mut().enumerate() {
        attention.heads = heads.as_ref().map_or(attention.heads, |heads| heads[block]);
        if attention.heads == 0 || !attention.heads.is_multiple_of(attention.kv_heads) {
            let message = format!("{} heads on {} of keys", attention.heads, attention.kv_heads);
            return Err(config.error("num_attention_heads_per_layer", message));
        }
        attention.rope = Some(usize::from(attention.span != AttentionSpan::Full));
        attention.gate = Some(AttentionGate::PerHeadSoftplus);
    }
    set_experts(config, &mut spec)?;
    spec.write_layer_types();
    write_ropes(config, &mut spec);
    Ok(spec)
}

fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    let size = |key| config.require_size(key);
    let score = match config.string("moe_router_score_func")? {
        None | Some("sigmoid") => Score::Sigmoid,
        Some("sqrtsoftplus") => Score::SqrtSoftplus,
        Some(other) => {
            let message = format!("`{other}` is not supported, only sigmoid and sqrtsoftplus");
            return Err(config.error("moe_router_score_func", message));
        }
    };
    let experts =
        ExpertsSpec::new(size("num_experts")?, size("num_experts_per_tok")?, size("moe_intermediate_size")?);
    let cap = config.number("moe_router_logit_softcapping")?.filter(|&cap| cap > 0.0);
    let experts = ExpertsSpec {
        names: &EXPERTS,
        score,
        correction: true,
        cap: cap.map(|cap| cap as f32),
        factor: config.positive("moe_routed_scaling_factor")?.unwrap_or(1.0) as f32,
        ..experts.normalized(true, 0.0)
    };
    let kinds = config.strings("mlp_layer_types")?;
    check_length(config, "mlp_layer_types", kinds.as_deref(), spec.blocks.len())?;
    spec.set_experts(config, experts, |block| {
        kinds.as_ref().map_or(block > 0, |kinds| kinds[block] == "sparse")
    })?;
    spec.set_shared_experts(size("shared_expert_intermediate_size")?, None);
    Ok(())
}

fn check_length<T>(config: &ModelConfig, key: &str, list: Option<&[T]>, count: usize) -> Result<()> {
    match list {
        Some(list) if list.len() != count => {
            Err(config.error(key, format!("{} entries for {count} layers", list.len())))
        }
        _ => Ok(()),
    }
}

/// Renames experts and what chooses them.
pub fn rename(name: &str) -> Rename {
    let to = |block: &str, rest: &str| Rename::To(format!("{block}.mlp.{rest}"));
    if let Some(block) = name.strip_suffix(".mlp.gate.weight") {
        return to(block, "gate.proj.weight");
    }
    if let Some(block) = name.strip_suffix(".mlp.experts.e_score_correction_bias") {
        return to(block, "gate.e_score_correction_bias");
    }
    match name.split_once(".mlp.shared_experts.") {
        Some((block, rest)) => to(block, &format!("shared_expert.{rest}")),
        None => rename_experts(name),
    }
}
