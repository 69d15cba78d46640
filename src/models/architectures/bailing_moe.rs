//! Ling and Ring of the first generation (`BailingMoE`): queries, keys and values in one matrix, experts and shared ones.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{
    Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, LLAMA_NAMES, ModuleNames, Projections, Rope,
    Score,
};

use super::glm4_moe::groups;

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::boolean("use_bias", false),
    KeyDefault::boolean("use_qkv_bias", false),
    KeyDefault::boolean("norm_head", false),
    KeyDefault::boolean("norm_softmax", false),
    KeyDefault::boolean("use_qk_norm", false),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::number("partial_rotary_factor", 1.0),
    KeyDefault::boolean("moe_router_enable_expert_bias", false),
    KeyDefault::boolean("moe_router_enable_routed_scaling", true),
    KeyDefault::boolean("moe_router_enable_shared_expert", true),
    KeyDefault::number("routed_scaling_factor", 1.0).minor(),
    KeyDefault::text("score_function", "softmax"),
    KeyDefault::size("n_group", 1).minor(),
    KeyDefault::size("topk_group", 4).minor(),
];

const NAMES: ModuleNames = ModuleNames {
    embed: "model.word_embeddings",
    attention: "attention",
    qkv: "query_key_value",
    o: "dense",
    q_norm: "query_layernorm",
    k_norm: "key_layernorm",
    ..LLAMA_NAMES
};
const EXPERTS: ExpertNames =
    ExpertNames { router: "gate.gate_proj", correction: "gate.expert_bias", ..EXPERT_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    for key in ["norm_head", "norm_softmax"] {
        config.only(key, &false.into())?;
    }
    let flag = |key| config.required(key, ModelConfig::boolean);
    let mut rope = Rope::partial(config, 1.0)?;
    rope.dims = config.size("rotary_dim")?.unwrap_or(rope.dims);
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_names(&NAMES);
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    let bias = flag("use_bias")?;
    spec.set_biases(Biases { qkv: flag("use_qkv_bias")?, o: bias, gate_up: bias, down: bias, head: false });
    if flag("use_qk_norm")? {
        spec.set_qk_norms();
    }
    spec.note_head_dim(config);
    set_experts(config, &mut spec, bias)?;
    Ok(spec)
}

fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec, bias: bool) -> Result<()> {
    let (size, flag) = (|key| config.require_size(key), |key| config.required(key, ModelConfig::boolean));
    let width = size("moe_intermediate_size")?;
    let experts = ExpertsSpec::new(size("num_experts")?, size("num_experts_per_tok")?, width);
    let experts = experts.normalized(flag("norm_topk_prob")?, 1e-20);
    let sigmoid = match config.string("score_function")? {
        Some("sigmoid") => true,
        Some("softmax") => false,
        other => {
            let message = format!("{} is not supported, only softmax and sigmoid", other.unwrap_or("null"));
            return Err(config.error("score_function", message));
        }
    };
    let experts = ExpertsSpec {
        names: &EXPERTS,
        bias,
        score: if sigmoid { Score::Sigmoid } else { Score::Softmax },
        correction: flag("moe_router_enable_expert_bias")?,
        groups: groups(config, experts.count)?,
        factor: config.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        ..experts
    };
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    spec.set_experts(config, experts, |block| block >= dense)?;
    let shared = config.count("num_shared_experts")?.unwrap_or(0);
    if shared > 0 && flag("moe_router_enable_shared_expert")? {
        let width = config.size("moe_shared_expert_intermediate_size")?.unwrap_or(width);
        spec.set_shared_experts(width * shared, None);
    }
    spec.resolved.push(("first_k_dense_replace", dense.into()));
    spec.extra.push(format!("model.layers.{}.", spec.blocks.len()));
    Ok(())
}

/// Renames experts and the router.
pub fn rename(name: &str) -> Rename {
    match name.strip_suffix(".mlp.gate.weight") {
        Some(block) => Rename::To(format!("{block}.mlp.gate.gate_proj.weight")),
        None => rename_experts(name),
    }
}
