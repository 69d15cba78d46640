//! `OLMo` 1 as its makers have it: keys and modules of their own, queries, keys and values in one matrix, up above gate.

use super::module_names::{OLMO, OLMO_KEYS};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::{Biases, DecoderSpec, Projections, Rope};

/// Describes the decoder but for its norms.
pub fn spec(config: &ModelConfig) -> Result<DecoderSpec> {
    let (yes, no) = (true.into(), false.into());
    for (key, value) in
        [("rope", &yes), ("layer_norm_with_affine", &no), ("alibi", &no), ("include_bias", &no)]
    {
        config.only(key, value)?;
    }
    for (key, value) in
        [("activation_type", "swiglu"), ("block_type", "sequential"), ("layer_norm_type", "default")]
    {
        config.only(key, &value.into())?;
    }
    let both = match config.size("mlp_hidden_size")? {
        Some(size) => size,
        None => config.size("mlp_ratio")?.unwrap_or(4) * config.require_size("d_model")?,
    };
    let mut config = config.with_names(OLMO_KEYS).with_value("intermediate_size", (both / 2).into());
    if config.get("tie_word_embeddings").is_none() {
        config = config.with_value("weight_tying", false.into());
    }
    let theta = config.positive("rope_theta")?.unwrap_or(10_000.0);
    let head_dim = config.require_size("hidden_size")? / config.require_size("num_attention_heads")?;
    let mut rope = Rope::plain(head_dim, theta);
    rope.traditional = config.boolean("rope_traditional")?.unwrap_or(false);
    let mut spec = DecoderSpec::with_ropes(&config, vec![rope])?;
    spec.set_names(&OLMO);
    spec.set_biases(Biases::default());
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    spec.mlps_mut().for_each(|mlp| mlp.projections = Projections::UpFirst);
    if config.get("clip_qkv").is_some() {
        spec.notes.push("clip_qkv is applied; mlx-lm's olmo ignores it".to_owned());
    }
    spec.notes.push("mlx-lm's olmo reads one token at a time only: prompts fail".to_owned());
    Ok(spec)
}
