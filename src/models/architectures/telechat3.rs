//! `TeleChat3`: Llama's block, and a `YaRN` of its own.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, TELECHAT3_YARN};

/// Defaults of its makers' `Telechat3Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 131_072),
    KeyDefault::size("hidden_size", 6144),
    KeyDefault::size("intermediate_size", 24_576),
    KeyDefault::size("num_hidden_layers", 64),
    KeyDefault::size("num_attention_heads", 48),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
];

/// Describes the decoder. `telechat3-yarn` multiplies rotated queries and keys by 0.07 ln(factor) + 1, which mlx-lm does
/// where it reads `mscale` 0.7.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    let kv_heads = spec.attentions().map(|attention| attention.kv_heads).next();
    spec.resolved.extend(kv_heads.map(|heads| ("num_key_value_heads", heads.into())));
    for (key, value) in &mut spec.resolved {
        let is_own = value.get("rope_type").or(value.get("type")).is_some_and(|kind| kind == TELECHAT3_YARN);
        if *key == "rope_scaling" && is_own {
            value["mscale"] = 0.7.into();
            // A factor of its own would be divided by.
            if let Some(divisor) = value.get_mut("mscale_all_dim") {
                *divisor = 0.into();
            }
            let note = "telechat3-yarn is applied with the factor of its makers; mlx-lm takes it from `mscale`, which is written";
            spec.notes.push(note.to_owned());
        }
    }
    Ok(spec)
}
