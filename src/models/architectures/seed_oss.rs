//! Seed-OSS: Llama's block with an explicit `head_dim`, and a switch of its own for the bias of attention's output.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `SeedOssConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 155_136),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 27_648),
    KeyDefault::size("num_hidden_layers", 64),
    KeyDefault::size("num_attention_heads", 80),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::nullable_size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 524_288).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", true),
    KeyDefault::boolean("attention_out_bias", false),
    KeyDefault::boolean("mlp_bias", false),
];

/// Describes the decoder: `attention_bias` is that of queries, keys and values.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    let o_bias = config.required("attention_out_bias", ModelConfig::boolean)?;
    spec.attentions_mut().for_each(|attention| attention.o_bias = o_bias);
    // mlx-lm multiplies by the embedding's raw weight there, and does not derive a head_dim of null.
    spec.head.quantized_tied = false;
    let head_dim = spec.attentions().map(|attention| attention.head_dim).next();
    spec.resolved.extend(head_dim.map(|head_dim| ("head_dim", head_dim.into())));
    Ok(spec)
}
