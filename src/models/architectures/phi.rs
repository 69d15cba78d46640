//! Phi-1, 1.5 and 2: attention and an MLP without gate side by side behind one layer norm, biases everywhere.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{
    Activation, Biases, BlockSpec, DecoderSpec, LLAMA_NAMES, ModuleNames, NormKind, Rope,
};

/// Defaults of transformers' `PhiConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 51_200),
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 8192),
    KeyDefault::size("num_hidden_layers", 24),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "gelu_new"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("layer_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", 0.5),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("qk_layernorm", false),
];

const NAMES: ModuleNames =
    ModuleNames { norm: "model.final_layernorm", o: "dense", up: "fc1", down: "fc2", ..LLAMA_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "layer_norm_eps")]);
    config.only("qk_layernorm", &false.into())?;
    config.only("tie_word_embeddings", &false.into())?;
    let rope = Rope::partial(config, 0.5)?;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_names(&NAMES);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::from_config(config, "hidden_act")?);
    spec.set_biases(Biases { head: true, ..Biases::of_parts(true, true) });
    spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    spec.resolved.push(("partial_rotary_factor", share.into()));
    spec.note_gelu(config, Activation::GeluTanh);
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    Ok(spec)
}
