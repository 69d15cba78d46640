//! Qwen 1: Llama's block under GPT-2's names, with queries, keys and values in one matrix.

use super::module_names::QWEN;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, Projections, Rope};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_936),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 24),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::size("kv_channels", 128),
    KeyDefault::size("max_position_embeddings", 8192).minor(),
    KeyDefault::number("layer_norm_epsilon", 1e-6),
    KeyDefault::boolean("no_bias", true),
];

/// Keys that the class calls otherwise.
const KEYS: &[(&str, &str)] =
    &[("head_dim", "kv_channels"), ("rms_norm_eps", "layer_norm_epsilon"), ("rope_theta", "rotary_emb_base")];

/// Base of the rotation where the config does not say.
const THETA: f64 = 10_000.0;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    for (key, only) in [("tie_word_embeddings", false.into()), ("rotary_pct", 1.0.into())] {
        config.only(key, &only)?;
    }
    let mut config =
        config.with_names(KEYS).with_defaults(DEFAULTS).with_value("tie_word_embeddings", false.into());
    if config.get("rope_theta").is_none() {
        config = config.with_value("rotary_emb_base", THETA.into());
    }
    let config = &config;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_names(&QWEN);
    for key in ["use_dynamic_ntk", "use_logn_attn"] {
        if config.boolean(key)?.unwrap_or(false) {
            spec.notes
                .push(format!("{key}, which works past the trained context, is not applied, as in mlx-lm"));
        }
    }
    let bias = !config.required("no_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv: true, o: bias, gate_up: bias, down: bias, head: bias });
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    // The config counts gate and up together.
    let width = config.require_size("intermediate_size")? / 2;
    spec.mlps_mut().for_each(|mlp| mlp.intermediate_size = width);
    if spec.attentions().any(|attention| attention.heads * attention.head_dim != spec.hidden_size) {
        let message = format!("num_attention_heads times this is not hidden_size {}", spec.hidden_size);
        return Err(config.error("head_dim", message));
    }
    Ok(spec)
}
