//! `StarCoder2`: layer norms, an MLP without gate, biases everywhere, a sliding window in every block.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Activation, Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, NormKind, Rope};

/// Defaults of transformers' `Starcoder2Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 49_152),
    KeyDefault::size("hidden_size", 3072),
    KeyDefault::size("intermediate_size", 12_288),
    KeyDefault::size("num_hidden_layers", 30),
    KeyDefault::size("num_attention_heads", 24),
    KeyDefault::nullable_size("num_key_value_heads", 2),
    KeyDefault::text("hidden_act", "gelu_pytorch_tanh"),
    KeyDefault::size("max_position_embeddings", 4096).minor(),
    KeyDefault::number("norm_epsilon", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("use_bias", true),
    KeyDefault::optional_size("sliding_window"),
];

const NAMES: ModuleNames = ModuleNames { up: "c_fc", down: "c_proj", ..LLAMA_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "norm_epsilon")]);
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_names(&NAMES);
    spec.set_norms(NormKind::Layer);
    spec.set_plain_mlps(Activation::from_config(config, "hidden_act")?);
    let bias = config.required("use_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, bias));
    if config.size("sliding_window")?.is_some() {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes.push(
            "sliding_window is applied as transformers does; mlx-lm's starcoder2 ignores it".to_owned(),
        );
    }
    spec.note_gelu(config, Activation::Gelu);
    spec.note_biases(config, bias);
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    Ok(spec)
}
