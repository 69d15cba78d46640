//! The table of architectures. An alias is a row.

use super::{Rename, TensorShapes, llama, llama4_text, mistral, qwen3, rename_common};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::DecoderSpec;

/// One row: a `model_type` and what to do with it.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// The config's `model_type`.
    pub model_type: &'static str,
    /// Maps config (and the names and shapes found in the checkpoint) to the decoder.
    pub spec: fn(&ModelConfig, &TensorShapes) -> Result<DecoderSpec>,
    /// Maps a checkpoint's tensor name to mlx-lm's.
    pub rename: fn(&str) -> Rename,
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture { model_type: "llama", spec: llama::spec, rename: rename_common },
    Architecture { model_type: "llama4_text", spec: llama4_text::spec, rename: llama4_text::rename },
    Architecture { model_type: "mistral", spec: mistral::spec, rename: rename_common },
    Architecture { model_type: "qwen3", spec: qwen3::spec, rename: rename_common },
    Architecture { model_type: "iquestcoder", spec: llama::spec, rename: rename_common },
];

/// All rows.
pub fn rows() -> &'static [Architecture] {
    ARCHITECTURES
}

/// The row for the config's `model_type`.
pub fn find(config: &ModelConfig) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.model_type == config.model_type()).ok_or_else(|| {
        config
            .error("model_type", format!("`{}` is not supported", config.model_type()))
            .hint(format!("supported are: {}", supported()))
    })
}

/// The supported `model_type`s, for messages.
pub fn supported() -> String {
    ARCHITECTURES.iter().map(|row| row.model_type).collect::<Vec<_>>().join(", ")
}
