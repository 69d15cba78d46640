//! Mistral 7B v0.1 (sliding window in every layer) to v0.3 (no window).

use super::TensorShapes;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::{AttentionSpan, DecoderSpec};

/// Llama's block; the window holds in every layer. mlx-lm 0.32 runs these models without it.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config, 10_000.0)?;
    spec.attention_bias = false;
    spec.mlp_bias = false;
    spec.set_sliding_windows(config, |_| true)?;
    if let Some(AttentionSpan::Sliding(window)) = spec.layers.first().map(|layer| layer.span) {
        spec.notes.push(format!(
            "sliding_window {window} is applied as transformers does; mlx-lm ignores it, so past {window} tokens its output differs"
        ));
    }
    Ok(spec)
}
