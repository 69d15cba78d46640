//! Qwen3 dense models: RMS norm with weight on queries and keys, explicit `head_dim`.

use super::TensorShapes;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::{DecoderSpec, QkNorm};

/// transformers' default for `head_dim` is 128, whatever the hidden size.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config, 10_000.0)?;
    if config.get("head_dim").is_none() {
        spec.head_dim = 128;
        spec.resolved.push(("head_dim", 128.into()));
    }
    spec.qk_norm = QkNorm::Weighted;
    let first_sliding = config.size("max_window_layers")?.unwrap_or(28);
    if config.boolean("use_sliding_window")?.unwrap_or(false) {
        spec.set_sliding_windows(config, |layer| layer >= first_sliding)?;
        spec.notes.push("sliding windows are applied as transformers does; mlx-lm ignores them".to_owned());
    }
    Ok(spec)
}
