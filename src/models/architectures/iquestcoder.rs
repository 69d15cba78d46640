//! IQuest-Coder: Llama's block with defaults of its own.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `IQuestCoderConfig`: Llama's, but for these.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::DEFAULTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 76_800),
    KeyDefault::size("hidden_size", 5120),
    KeyDefault::size("intermediate_size", 27_648),
    KeyDefault::size("num_hidden_layers", 80),
    KeyDefault::size("num_attention_heads", 40),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
];

/// Describes the decoder. Two options of its makers' first code are in no published model.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    config.only("use_sliding_window", &false.into())?;
    config.only("clip_qkv", &serde_json::Value::Null)?;
    llama::spec(&config.with_defaults(DEFAULTS), shapes)
}
