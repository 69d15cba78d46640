//! Gemma 2: norms before and after each part, capped scores and logits, a window in every other block.

use super::gemma::make_gemma;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, Rope};

/// Defaults of transformers' `Gemma2Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 256_000),
    KeyDefault::size("hidden_size", 2304),
    KeyDefault::size("intermediate_size", 9216),
    KeyDefault::size("num_hidden_layers", 26),
    KeyDefault::size("num_attention_heads", 8),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::size("head_dim", 256),
    KeyDefault::text("hidden_activation", "gelu_pytorch_tanh"),
    KeyDefault::size("max_position_embeddings", 8192).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::size("query_pre_attn_scalar", 256),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::nullable_number("final_logit_softcapping", 30.0),
    KeyDefault::nullable_number("attn_logit_softcapping", 50.0),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_activation("hidden_activation", &["gelu_pytorch_tanh"])?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_sliding_windows(config, |layer| layer.is_multiple_of(2))?;
    spec.set_norms_after();
    make_gemma(config, &mut spec)?;
    let scale = (config.require_size("query_pre_attn_scalar")? as f32).powf(-0.5);
    let cap = config.positive("attn_logit_softcapping")?.map(|cap| cap as f32);
    for attention in spec.attentions_mut() {
        (attention.scale, attention.cap) = (scale, cap);
    }
    spec.head.cap = config.positive("final_logit_softcapping")?.map(|cap| cap as f32);
    spec.notes
        .push("sliding windows are applied as transformers does; mlx-lm's gemma2 ignores them".to_owned());
    Ok(spec)
}
