//! `PLaMo` 1: attention and MLP side by side behind one norm; query head h reads key head h modulo their number.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{BlockSpec, DecoderSpec, LLAMA_NAMES, ModuleNames};

/// Defaults of mlx-lm's arguments, which are those of the makers' `PlamoConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("n_shared_head", 8),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("rope_traditional", false),
];

const NAMES: ModuleNames =
    ModuleNames { blocks: "model.layers.layers", attention_norm: "norm", ..LLAMA_NAMES };

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut config = config.with_defaults(DEFAULTS);
    if config.get("tie_word_embeddings").is_none() {
        config = config.with_value("tie_word_embeddings", false.into());
    }
    let (heads, sharing) =
        (config.require_size("num_attention_heads")?, config.require_size("n_shared_head")?);
    let keys = heads.div_ceil(sharing);
    if !heads.is_multiple_of(keys) {
        let message =
            format!("{sharing} makes {keys} key heads, which do not divide num_attention_heads {heads}");
        return Err(config.error("n_shared_head", message));
    }
    let config = &config.with_value("num_key_value_heads", keys.into());
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_names(&NAMES);
    spec.ropes[0].traditional = config.required("rope_traditional", ModelConfig::boolean)?;
    spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    spec.attentions_mut().for_each(|attention| attention.interleaved_heads = true);
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    Ok(spec)
}
