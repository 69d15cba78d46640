//! Lille 130M: Llama's block with norms inside its parts, interleaved rotation, and queries, keys and values in one matrix.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, Projections, Rope};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[KeyDefault::boolean("tie_word_embeddings", true)];

/// Keys that the class calls otherwise.
const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("max_position_embeddings", "block_size"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
    ("num_key_value_heads", "n_kv_heads"),
    ("rms_norm_eps", "layer_norm_eps"),
];

const NAMES: ModuleNames = ModuleNames {
    blocks: "transformer.layers",
    embed: "transformer.tok_embeddings",
    norm: "transformer.norm",
    attention: "attention",
    attention_norm: "attention.norm",
    o: "out_proj",
    mlp: "feed_forward",
    mlp_norm: "feed_forward.norm",
    ..LLAMA_NAMES
};

/// Describes the decoder. The head is always the embedding.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_names(KEYS).with_defaults(DEFAULTS);
    config.only("tie_word_embeddings", &true.into())?;
    let width = config.require_size("hidden_size")? * 8 / 3;
    let width = 256 * (width as f64 / 256.0).round_ties_even() as usize;
    let config = &config.with_value("intermediate_size", width.into());
    let mut rope = Rope::from_config(config)?;
    rope.traditional = true;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_names(&NAMES);
    spec.set_biases(Biases::default());
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    Ok(spec)
}

/// Leaves out the buffers of the rotation.
pub fn rename(name: &str) -> Rename {
    if name.contains("rotary_emb") { Rename::Drop } else { Rename::Keep }
}
