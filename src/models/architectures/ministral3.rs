//! Ministral 3: Mistral's block, `YaRN`, and queries that grow with their positions past the trained context.

use serde_json::{Value, json};

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, Rope, TemperatureTuning};

/// Defaults of transformers' `Ministral3Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 131_072),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 14_336),
    KeyDefault::size("num_hidden_layers", 34),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 262_144).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::optional_size("sliding_window"),
];

/// Describes the decoder. A sliding window holds in every block.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let (config, note) = &config.with_defaults(DEFAULTS).with_usual_scaling(usual_rope());
    config.only_silu()?;
    let rope = Rope::from_config(config)?;
    let (parameters, notes) = (rope.parameters(config), rope.notes(config));
    let mut spec = DecoderSpec::with_ropes(config, vec![rope])?;
    spec.set_biases(Biases::default());
    spec.notes.extend(notes.into_iter().chain(note.clone()));
    // The only place where mlx-lm reads base and scaling.
    spec.resolved.push(("rope_parameters", parameters));
    let group = Rope::group(config)?;
    let number = |key: &str| config.required(&format!("{group}.{key}"), ModelConfig::positive);
    spec.temperature_tuning = Some(TemperatureTuning {
        floor_scale: number("original_max_position_embeddings")?,
        attn_scale: number("llama_4_scaling_beta")?,
        first_position: 0.0,
    });
    spec.attentions_mut().for_each(|attention| attention.tempered = true);
    if config.size("sliding_window")?.is_some() {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes.push("sliding_window is applied as transformers does; mlx-lm ignores it".to_owned());
    }
    Ok(spec)
}

/// Rotation where the config says nothing of it.
fn usual_rope() -> Value {
    json!({"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16_384, "rope_type": "yarn"})
}
