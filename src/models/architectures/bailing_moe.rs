//! Ling and Ring of the first generation (`BailingMoE`): queries, keys and values in one matrix, experts and shared ones.

use super::bailing_experts::{EXPERTS, set_experts};
use super::module_names::BAILING;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{Biases, DecoderSpec, Projections, Rope};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = extended!(EXPERTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::boolean("use_bias", false),
    KeyDefault::boolean("use_qkv_bias", false),
    KeyDefault::boolean("norm_head", false),
    KeyDefault::boolean("norm_softmax", false),
    KeyDefault::boolean("use_qk_norm", false),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::number("partial_rotary_factor", 1.0),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    config.only("norm_softmax", &false.into())?;
    let flag = |key| config.required(key, ModelConfig::boolean);
    let mut rope = Rope::partial(config, 1.0)?;
    rope.dims = config.size("rotary_dim")?.unwrap_or(rope.dims);
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_names(&BAILING);
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    let bias = flag("use_bias")?;
    spec.set_biases(Biases { qkv: flag("use_qkv_bias")?, o: bias, gate_up: bias, down: bias, head: false });
    if flag("use_qk_norm")? {
        spec.set_qk_norms();
    }
    spec.note_head_dim(config);
    set_experts(config, &mut spec, bias)?;
    if flag("norm_head")? {
        config.only("tie_word_embeddings", &false.into())?;
        spec.head.normalized = true;
        // What is written is divided already.
        spec.resolved.push(("norm_head", false.into()));
    }
    Ok(spec)
}
