//! `StarCoder` 1 and `SantaCoder`: GPT-2's block with learned positions, in which all heads share one key and value.

use super::gptj::{KEYS, with_inner_size};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{Activation, Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, NormKind, Projections};

/// Defaults of transformers' `GPTBigCodeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_257),
    KeyDefault::size("n_positions", 1024),
    KeyDefault::size("n_embd", 768),
    KeyDefault::size("n_layer", 12),
    KeyDefault::size("n_head", 12),
    KeyDefault::optional_size("n_inner"),
    KeyDefault::text("activation_function", "gelu_pytorch_tanh"),
    KeyDefault::number("layer_norm_epsilon", 1e-5),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("scale_attn_weights", true),
    KeyDefault::boolean("multi_query", true),
];

/// Names of GPT-2's modules.
pub(super) const NAMES: ModuleNames = ModuleNames {
    blocks: "transformer.h",
    embed: "transformer.wte",
    norm: "transformer.ln_f",
    attention: "attn",
    attention_norm: "ln_1",
    qkv: "c_attn",
    o: "c_proj",
    mlp_norm: "ln_2",
    up: "c_fc",
    down: "c_proj",
    ..LLAMA_NAMES
};

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &with_inner_size(&config.with_defaults(DEFAULTS).with_names(KEYS))?;
    config.only("scale_attn_weights", &true.into())?;
    config.only("add_cross_attention", &false.into())?;
    let mut spec = DecoderSpec::with_ropes(config, Vec::new())?;
    spec.set_names(&NAMES);
    spec.set_norms(NormKind::Layer);
    spec.set_learned_positions("transformer.wpe", config.require_size("max_position_embeddings")?);
    spec.set_plain_mlps(Activation::from_config(config, "activation_function")?);
    spec.set_biases(Biases::of_parts(true, true));
    let shared = config.required("multi_query", ModelConfig::boolean)?;
    for attention in spec.attentions_mut() {
        attention.projections = if shared { Projections::Fused } else { Projections::FusedByHead };
        attention.kv_heads = if shared { 1 } else { attention.heads };
    }
    spec.resolved.push(("n_inner", config.require_size("intermediate_size")?.into()));
    spec.note_gelu(config, Activation::Gelu);
    if !shared {
        spec.notes.push(
            "query, key and value of each head have their rows together; mlx-lm's gpt_bigcode reads other rows"
                .to_owned(),
        );
    }
    Ok(spec)
}

/// Drops buffers.
pub fn rename(name: &str) -> Rename {
    let is_buffer = name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
    match name {
        _ if is_buffer => Rename::Drop,
        _ if ["transformer.", "lm_head."].iter().any(|start| name.starts_with(start)) => Rename::Keep,
        _ => Rename::To(format!("transformer.{name}")),
    }
}
