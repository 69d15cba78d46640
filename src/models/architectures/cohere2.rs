//! Cohere's Command R7B and Command A: as the first generation, with RoPE in sliding windows and neither in every fourth block.

use super::cohere::make_cohere;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{AttentionSpan, DecoderSpec};

/// Defaults of transformers' `Cohere2Config`.
pub const DEFAULTS: &[KeyDefault] = extended!(SHARED, OWN);

const OWN: &[KeyDefault] = &[KeyDefault::nullable_size("sliding_window", 4096).minor()];

/// Defaults of both generations of Cohere's models.
pub(super) const SHARED: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 256_000),
    KeyDefault::size("hidden_size", 8192),
    KeyDefault::size("intermediate_size", 22_528),
    KeyDefault::size("num_hidden_layers", 40),
    KeyDefault::size("num_attention_heads", 64),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 8192).minor(),
    KeyDefault::number("layer_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::number("logit_scale", 0.0625),
];

/// Blocks of which the last has no window, where the config has neither `layer_types` nor `sliding_window_pattern`.
const PATTERN: usize = 4;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "layer_norm_eps")]);
    config.only("rotary_pct", &1.0.into())?;
    let mut spec = DecoderSpec::from_config(config)?;
    make_cohere(config, &mut spec)?;
    let pattern = config.size("sliding_window_pattern")?.unwrap_or(PATTERN);
    spec.set_sliding_windows(config, |layer| !(layer + 1).is_multiple_of(pattern))?;
    let slides = |span| matches!(span, AttentionSpan::Sliding(_));
    for attention in spec.attentions_mut().filter(|attention| !slides(attention.span)) {
        attention.rope = None;
    }
    // mlx-lm has another default for the size of heads, and reads no `layer_types`.
    let sliding: Vec<bool> = spec.attentions().map(|attention| slides(attention.span)).collect();
    let pattern = sliding.iter().position(|slides| !slides).unwrap_or(sliding.len()) + 1;
    if !(1_usize..).zip(&sliding).all(|(number, slides)| *slides != number.is_multiple_of(pattern)) {
        spec.notes.push("mlx-lm's cohere2 has windows in a regular pattern only".to_owned());
    }
    let head_dim = spec.attentions().map(|attention| attention.head_dim).next();
    spec.resolved.extend(head_dim.map(|head_dim| ("head_dim", head_dim.into())));
    spec.resolved.push(("sliding_window_pattern", pattern.into()));
    Ok(spec)
}
