//! `StableLM` 3B, and `StableLM` 2: layer norms, a part of each head rotated; in 12B a layer norm for each head, and attention and
//! MLP side by side.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, BlockSpec, DecoderSpec, NormKind, Rope};

/// Defaults of transformers' `StableLmConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_304),
    KeyDefault::size("hidden_size", 2560),
    KeyDefault::size("intermediate_size", 6912),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 32),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 4096).minor(),
    KeyDefault::number("layer_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", 0.25),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("use_qkv_bias", false),
    KeyDefault::boolean("qk_layernorm", false),
    KeyDefault::boolean("use_parallel_residual", false),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "layer_norm_eps")]);
    config.only_silu()?;
    let rope = Rope::partial(config, 0.25)?;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_norms(NormKind::Layer);
    let qkv = config.required("use_qkv_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    if config.required("qk_layernorm", ModelConfig::boolean)? {
        spec.set_norms_of_each_head(config, NormKind::LayerUnbiased)?;
    }
    if config.required("use_parallel_residual", ModelConfig::boolean)? {
        spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    }
    spec.resolved.push(("partial_rotary_factor", share.into()));
    spec.note_rope_scaling(config);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    Ok(spec)
}
