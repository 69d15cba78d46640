//! Apertus: Llama's block with norms of queries and keys, and an MLP without gate whose activation is partly learned.

use serde_json::{Value, json};

use super::module_names::APERTUS;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Activation, DecoderSpec, Rope};

/// Defaults of transformers' `ApertusConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 131_072),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 14_336),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "xielu"),
    KeyDefault::size("max_position_embeddings", 65_536).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 12_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
];

/// Rotation where the config says nothing of it.
fn usual_rope() -> Value {
    json!({"rope_type": "llama3", "rope_theta": 12_000_000.0, "factor": 8.0, "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0})
}

/// Describes the decoder. The learned numbers may be vectors of one, as transformers saves them, or scalars, as mlx-lm does.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let (config, note) = &config.with_defaults(DEFAULTS).with_usual_scaling(usual_rope());
    config.only_activation("hidden_act", &["xielu"])?;
    config.only("post_norm", &false.into())?;
    config.only("qk_norm", &true.into())?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.notes.extend(note.clone());
    spec.set_names(&APERTUS);
    spec.set_qk_norms();
    spec.set_plain_mlps(Activation::Xielu);
    spec.set_activation_parameters(|name| shapes.get(name));
    let mlp_bias = config.boolean("mlp_bias")?.unwrap_or(false);
    let written = [("mlp_bias", mlp_bias), ("post_norm", false), ("qk_norm", true)];
    spec.resolved.extend(written.map(|(key, value)| (key, value.into())));
    if config.boolean("attention_bias")?.unwrap_or(false) {
        spec.notes.push("mlx-lm's apertus cannot load biases of attention".to_owned());
    }
    spec.note_head_dim(config);
    Ok(spec)
}
