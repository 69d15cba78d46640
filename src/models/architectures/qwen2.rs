//! Qwen2 and Qwen2.5 of all sizes, `QwQ`, and what is distilled into them (`DeepSeek-R1-Distill-Qwen`): Llama's block with
//! biases on queries, keys and values.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec};

/// Defaults of transformers' `Qwen2Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 151_936),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 22_016),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("use_sliding_window", false),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::size("max_window_layers", 28).minor(),
];

/// Describes the decoder; the later blocks may have a sliding window.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases { qkv: true, ..Biases::default() });
    set_late_windows(&mut spec, config)?;
    spec.note_head_dim(config);
    Ok(spec)
}

/// Gives a sliding window to the blocks from `max_window_layers` on, or those of `layer_types`, if `use_sliding_window`.
pub(super) fn set_late_windows(spec: &mut DecoderSpec, config: &ModelConfig) -> Result<()> {
    let first_sliding = config.require_size("max_window_layers")?;
    if config.required("use_sliding_window", ModelConfig::boolean)? {
        spec.set_sliding_windows(config, |layer| layer >= first_sliding)?;
        spec.notes.push("sliding windows are applied as transformers does; mlx-lm ignores them".to_owned());
    }
    Ok(())
}
