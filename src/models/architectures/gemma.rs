//! Gemma 1: norm weights stored less 1, a scaled embedding, an MLP with GELU.

use half::bf16;

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Activation, DecoderSpec, Rope};

/// Defaults of transformers' `GemmaConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 256_000),
    KeyDefault::size("hidden_size", 3072),
    KeyDefault::size("intermediate_size", 24_576),
    KeyDefault::size("num_hidden_layers", 28),
    KeyDefault::size("num_attention_heads", 16),
    KeyDefault::nullable_size("num_key_value_heads", 16),
    KeyDefault::size("head_dim", 256),
    KeyDefault::text("hidden_act", "gelu_pytorch_tanh"),
    KeyDefault::size("max_position_embeddings", 8192).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
];

/// Describes the decoder. transformers takes `gelu` for its approximation with tanh.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_activation("hidden_act", &["gelu", "gelu_pytorch_tanh"])?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    make_gemma(config, &mut spec)?;
    spec.notes.push(
        "GELU is approximated with tanh, as in transformers; mlx-lm's gemma computes it exactly".to_owned(),
    );
    Ok(spec)
}

/// Sets what all Gemmas have in common. The embedding's factor is rounded to bfloat16, as in the models' own dtype.
pub(super) fn make_gemma(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    config.only("use_bidirectional_attention", &false.into())?;
    spec.norms_mut().for_each(|norm| norm.less = 1.0);
    spec.mlps_mut().for_each(|mlp| mlp.activation = Activation::GeluTanh);
    spec.embed.scale = Some(bf16::from_f32((spec.hidden_size as f32).sqrt()).to_f32());
    Ok(())
}
