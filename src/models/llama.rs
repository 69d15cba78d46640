//! Llama 2 and 3.x, `TinyLlama`, `SmolLM2` and what else calls itself `llama`.

use super::TensorShapes;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::DecoderSpec;

/// Nothing but the shared keys; `rope_traditional` is mlx-lm's own key.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config, 10_000.0)?;
    spec.rope.traditional = config.boolean("rope_traditional")?.unwrap_or(false);
    spec.set_sliding_windows(config, |_| false)?;
    Ok(spec)
}
