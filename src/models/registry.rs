//! The table of architectures. An alias is a row.

use super::{
    Rename, TensorShapes, llama, llama4_text, mistral, mixtral, qwen3, qwen3_moe, rename_common,
    rename_experts,
};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::DecoderSpec;

/// One row: a `model_type` and what to do with it.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// The config's `model_type`.
    pub model_type: &'static str,
    /// The row whose tests cover this one, for a mere other name.
    pub alias_of: Option<&'static str>,
    /// Maps config (and the names and shapes found in the checkpoint) to the decoder.
    pub spec: Spec,
    /// Maps a checkpoint's tensor name to mlx-lm's.
    pub rename: fn(&str) -> Rename,
}

const ARCHITECTURES: &[Architecture] = &[
    row("llama", llama::spec, rename_common),
    row("llama4_text", llama4_text::spec, llama4_text::rename),
    row("mistral", mistral::spec, rename_common),
    row("mixtral", mixtral::spec, mixtral::rename),
    row("qwen3", qwen3::spec, rename_common),
    row("qwen3_moe", qwen3_moe::spec, rename_experts),
    alias("iquestcoder", "llama", llama::spec, rename_common),
];

/// Config and shapes to decoder.
pub type Spec = fn(&ModelConfig, &TensorShapes) -> Result<DecoderSpec>;

const fn row(model_type: &'static str, spec: Spec, rename: fn(&str) -> Rename) -> Architecture {
    Architecture { model_type, alias_of: None, spec, rename }
}

const fn alias(
    model_type: &'static str,
    of: &'static str,
    spec: Spec,
    rename: fn(&str) -> Rename,
) -> Architecture {
    Architecture { model_type, alias_of: Some(of), spec, rename }
}

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
