//! Mistral 7B v0.1 (sliding window in every layer) to v0.3 (no window).

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionSpan, Biases, DecoderSpec};

/// Defaults of transformers' `MistralConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 32_000),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 14_336),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
];

/// Describes the decoder: Llama's block; the window holds in every layer. mlx-lm 0.32 runs these models without it.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_sliding_windows(config, |_| true)?;
    let span = spec.attentions().next().map(|attention| attention.span);
    if let Some(AttentionSpan::Sliding(window)) = span {
        spec.notes.push(format!(
            "sliding_window {window} is applied as transformers does; mlx-lm ignores it, so past {window} tokens its output differs"
        ));
    }
    Ok(spec)
}
