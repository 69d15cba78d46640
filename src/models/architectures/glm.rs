//! GLM-4 9B of 2024 and GLM-Edge: half of each head rotated, or all of it, gate and up in one matrix.

use super::glm4;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `GlmConfig`: those of `Glm4Config`, but for this.
pub const DEFAULTS: &[KeyDefault] = extended!(glm4::DEFAULTS, OWN);

const OWN: &[KeyDefault] = &[KeyDefault::nullable_size("head_dim", 128)];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = glm4::without_norms_after(&config.with_defaults(DEFAULTS))?;
    let head_dim = spec.attentions().next().map_or(0, |attention| attention.head_dim);
    spec.resolved.push(("head_dim", head_dim.into()));
    if spec.ropes[0].dims < head_dim {
        let note = "a part of each head is rotated, as in transformers; mlx-lm's glm rotates all of it";
        spec.notes.push(note.to_owned());
    }
    Ok(spec)
}
