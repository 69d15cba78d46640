//! The text decoder of Llama 4 Scout and Maverick: Llama 4's attention, experts whose input is weighed, and one that every token
//! goes through.

use super::names::TensorShapes;
use super::{llama4_text, qwen3_vl_moe};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::names::Rename;
use crate::models::spec::{DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, LOCAL_EXPERT_KEYS, Score};

/// Defaults of transformers' `Llama4TextConfig`, with those of experts.
pub const DEFAULTS: &[KeyDefault] = extended!(llama4_text::DEFAULTS, OWN);

const OWN: &[KeyDefault] =
    &[KeyDefault::size("num_local_experts", 16), KeyDefault::size("num_experts_per_tok", 1)];

const NAMES: ExpertNames =
    ExpertNames { router: "router", experts: "experts", shared: "shared_expert", ..EXPERT_NAMES };

/// Describes the decoder. Older configs have a number for `attn_temperature_tuning`.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut config = config.with_defaults(DEFAULTS);
    if let Ok(Some(number)) = config.number("attn_temperature_tuning") {
        config = config.with_value("attn_temperature_tuning", (number > 0.0).into());
    }
    let config = &config;
    let mut spec = llama4_text::with_attention(config)?;
    let dense = config.require_size("intermediate_size_mlp")?;
    spec.mlps_mut().for_each(|mlp| mlp.intermediate_size = dense);
    let experts = ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?;
    let experts = ExpertsSpec { names: &NAMES, score: Score::Sigmoid, weighs_input: true, ..experts };
    let listed = config.indices("moe_layers")?;
    let step = config.require_size("interleave_moe_layer_step")?;
    let is_sparse = |block: usize| {
        listed.as_ref().map_or((block + 1).is_multiple_of(step), |listed| listed.contains(&block))
    };
    spec.set_experts(config, experts, is_sparse)?;
    spec.set_shared_experts(experts.intermediate_size, None);
    spec.write_absent(config, &["rope_scaling"]);
    let count = spec.blocks.len();
    let differs = (0..count).any(|block| is_sparse(block) != (block + 1).is_multiple_of(step));
    spec.note_if(
        differs,
        "moe_layers says which blocks have experts; mlx-lm goes by interleave_moe_layer_step",
    );
    let others = spec.attentions().enumerate().any(|(i, a)| a.rope.is_some() == (i + 1).is_multiple_of(4));
    spec.note_if(others, "no_rope_layers is applied; mlx-lm's llama4 leaves RoPE out of every fourth block");
    spec.note_if(experts.per_token > 1, "mlx-lm's llama4 has one expert per token");
    if (spec.head.norm.eps - 1e-6).abs() > 1e-9 && config.boolean("use_qk_norm")? == Some(true) {
        spec.notes.push("q/k norm has rms_norm_eps, as in transformers; mlx-lm's llama4 has 1e-6".to_owned());
    }
    Ok(spec)
}

/// Names the experts' matrices, which are stored [experts, in, out], gate beside up.
pub fn rename(name: &str) -> Rename {
    qwen3_vl_moe::rename_beside(name, "experts")
}
