//! EXAONE 4: norms of what each part gives, and of queries and keys; where some blocks have a window, only those are rotated.

use serde_json::Value;

use super::names::TensorShapes;
use super::olmo2::set_norms_of_outputs;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionSpan, Biases, DecoderSpec, WindowPattern};

/// Defaults of transformers' `Exaone4Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 102_400),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 16_384),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::nullable_size("sliding_window_pattern", 4).minor(),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_qk_norms();
    set_norms_of_outputs(&mut spec);
    let pattern = WindowPattern::from_config(config, "sliding_window_pattern")?;
    spec.set_sliding_windows(config, |block| pattern.is_sliding(block))?;
    let slides = config.size("sliding_window")?.is_some();
    let (mut letters, is_local) = (String::new(), |span| span != AttentionSpan::Full);
    for attention in spec.attentions_mut() {
        attention.rope = (!slides || is_local(attention.span)).then_some(0);
        letters.push(if is_local(attention.span) { 'L' } else { 'G' });
    }
    let head_dim = spec.attentions().next().map(|attention| attention.head_dim);
    spec.resolved.extend(head_dim.map(|head_dim| ("head_dim", head_dim.into())));
    // mlx-lm has no defaults for these, and reads letters only.
    let letters = if slides { letters.into() } else { Value::Null };
    spec.resolved.push(("sliding_window_pattern", letters));
    spec.write_absent(config, &["sliding_window", "rope_scaling"]);
    Ok(spec)
}

/// Returns the test of blocks with a window, where `layer_types` does not say: by letters (L and G, repeated), or all but
/// every so manieth.
pub(super) fn pattern(config: &ModelConfig) -> Result<impl Fn(usize) -> bool + use<>> {
    const KEY: &str = "sliding_window_pattern";
    let (letters, distance) = match config.get(KEY) {
        Some(Value::String(letters)) if !letters.is_empty() && letters.chars().all(|c| "LG".contains(c)) => {
            (letters.clone().into_bytes(), letters.len())
        }
        Some(Value::String(_)) => return Err(config.error(KEY, "expected a number, or the letters L and G")),
        _ => (Vec::new(), config.size(KEY)?.unwrap_or(1)),
    };
    Ok(move |block: usize| {
        let place = block % distance;
        letters.get(place).map_or(place + 1 < distance, |&letter| letter == b'L')
    })
}
