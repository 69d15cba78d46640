//! `OLMo` 1, as its makers and as transformers have it: layer norms without weights; queries, keys and values may be clipped.

use super::names::TensorShapes;
use super::olmo_makers;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, NormKind};

/// Defaults of transformers' `OlmoConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_304),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
];

/// Epsilon, which no key says.
const EPSILON: f64 = 1e-5;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.clone().with_value("rms_norm_eps", EPSILON.into());
    let is_of_makers = config.get("d_model").is_some();
    let mut spec = if is_of_makers { olmo_makers::spec(&config)? } else { of_transformers(&config)? };
    spec.set_norms(NormKind::LayerWeightless);
    let clip = config.positive("clip_qkv")?.map(|most| most as f32);
    spec.attentions_mut().for_each(|attention| attention.clip = clip);
    Ok(spec)
}

fn of_transformers(config: &ModelConfig) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(&config.with_defaults(DEFAULTS))?;
    spec.mlps_mut().for_each(|mlp| (mlp.gate_up_bias, mlp.down_bias) = (false, false));
    spec.notes.push("mlx-lm's olmo loads models in their makers' form only, not transformers'".to_owned());
    Ok(spec)
}
