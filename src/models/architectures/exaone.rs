//! EXAONE 3 and 3.5: Llama's block under GPT-2's names.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, LLAMA_NAMES, ModuleNames, Rope};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::optional_size("head_dim"),
    KeyDefault::optional_size("max_position_embeddings"),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
    KeyDefault::boolean("rope_traditional", false),
];

/// Keys that the class calls otherwise.
const KEYS: &[(&str, &str)] = &[("num_hidden_layers", "num_layers"), ("rms_norm_eps", "layer_norm_epsilon")];

const NAMES: ModuleNames = ModuleNames {
    blocks: "transformer.h",
    embed: "transformer.wte",
    norm: "transformer.ln_f",
    attention: "attn.attention",
    attention_norm: "ln_1",
    o: "out_proj",
    mlp_norm: "ln_2",
    gate: "c_fc_0",
    up: "c_fc_1",
    down: "c_proj",
    ..LLAMA_NAMES
};

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_names(KEYS).with_defaults(DEFAULTS);
    config.only("activation_function", &"silu".into())?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_names(&NAMES);
    spec.ropes[0].traditional = config.required("rope_traditional", ModelConfig::boolean)?;
    Ok(spec)
}
