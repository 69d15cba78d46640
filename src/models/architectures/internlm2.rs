//! InternLM2 and 2.5: Llama's block with queries, keys and values in one matrix, those of a key head's group together.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_common};
use crate::models::spec::{Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, Projections};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::size("max_position_embeddings", 32_768).minor(),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("bias", true),
    KeyDefault::boolean("rope_traditional", false),
];

const NAMES: ModuleNames = ModuleNames {
    embed: "model.tok_embeddings",
    head: "output",
    attention: "attention",
    attention_norm: "attention_norm",
    qkv: "wqkv",
    o: "wo",
    mlp: "feed_forward",
    mlp_norm: "ffn_norm",
    gate: "w1",
    up: "w3",
    down: "w2",
    ..LLAMA_NAMES
};

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_names(&NAMES);
    spec.ropes[0].traditional = config.required("rope_traditional", ModelConfig::boolean)?;
    let bias = config.required("bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::FusedByHead);
    spec.write_rope_type();
    Ok(spec)
}

/// Leaves out the frequencies of the rotation.
pub fn rename(name: &str) -> Rename {
    if name.ends_with(".attention.rope.inv_freq") { Rename::Drop } else { rename_common(name) }
}
