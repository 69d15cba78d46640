//! Apertus: Llama's block with norms of queries and keys, and an MLP without gate whose activation is partly learned.

use serde_json::{Value, json};

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Activation, DecoderSpec, LLAMA_NAMES, ModuleNames, Rope, XIELU_PARAMETERS};

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

const NAMES: ModuleNames =
    ModuleNames { attention_norm: "attention_layernorm", mlp_norm: "feedforward_layernorm", ..LLAMA_NAMES };

/// Rotation where the config says nothing of it.
fn usual_rope() -> Value {
    json!({
        "rope_type": "llama3",
        "rope_theta": 12_000_000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    })
}

/// Describes the decoder. The learned numbers may be vectors of one, as transformers saves them, or scalars, as mlx-lm does.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut config = config.with_defaults(DEFAULTS);
    let mut notes = Vec::new();
    if config.get("rope_scaling").is_none() && config.get("rope_parameters").is_none() {
        config = config.with_value("rope_parameters", usual_rope());
        notes.push(
            "config.json says nothing of RoPE's scaling: it is that of transformers' class, llama3"
                .to_owned(),
        );
    }
    let config = &config;
    config.only_activation("hidden_act", &["xielu"])?;
    config.only("post_norm", &false.into())?;
    config.only("qk_norm", &true.into())?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.notes.extend(notes);
    spec.set_names(&NAMES);
    spec.set_qk_norms();
    spec.set_plain_mlps(Activation::Xielu);
    for mlp in spec.mlps_mut() {
        let usual = |name: &str| if name.starts_with("alpha") { vec![1] } else { Vec::new() };
        mlp.activation_shapes = XIELU_PARAMETERS.map(usual).into();
        let names: Vec<String> = mlp.activation_names().collect();
        for (shape, name) in mlp.activation_shapes.iter_mut().zip(&names) {
            // Other shapes are refused later.
            if let Some(stored) = shapes.get(name).filter(|stored| stored.iter().all(|size| *size == 1)) {
                shape.clone_from(stored);
            }
        }
    }
    let mlp_bias = config.boolean("mlp_bias")?.unwrap_or(false);
    spec.resolved.extend(
        [("mlp_bias", mlp_bias), ("post_norm", false), ("qk_norm", true)]
            .map(|(key, value)| (key, value.into())),
    );
    if config.boolean("attention_bias")?.unwrap_or(false) {
        spec.notes.push("mlx-lm's apertus cannot load biases of attention".to_owned());
    }
    spec.note_head_dim(config);
    Ok(spec)
}
