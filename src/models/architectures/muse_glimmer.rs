//! The text decoder of Muse Glimmer: norms before and after each part, a gate on attention, three blocks of four with windows.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionGate, Biases, DecoderSpec, NormKind, NormSpec, QkNorm, Rope};

/// Defaults of transformers' `MuseGlimmerTextConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 202_048),
    KeyDefault::size("hidden_size", 6656),
    KeyDefault::size("intermediate_size", 19_968),
    KeyDefault::size("num_hidden_layers", 52),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 2),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_activation", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("post_norm_eps", 1e-8),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::nullable_size("sliding_window", 2048).minor(),
    KeyDefault::number("qk_scale_factor", 3.87),
    KeyDefault::number("final_logit_softcapping", 20.0),
    KeyDefault::number("output_multiplier", 0.196_116_135_138_184_04),
];

/// Describes the decoder. Every fourth block from the last has no window, and no rotation unless `layer_rope_theta` says so.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_activation("hidden_activation", &["silu"])?;
    config.only("attention_bias", &false.into())?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_biases(Biases::default());
    let count = spec.blocks.len();
    let is_local = |layer: usize| !(count - 1 - layer).is_multiple_of(4);
    spec.set_sliding_windows(config, is_local)?;
    let (factor, eps_after) = (config.factor("qk_scale_factor")?, config.factor("post_norm_eps")?);
    spec.set_norms_after();
    let bases = config.numbers_of_layers("layer_rope_theta", count)?;
    let qk_norm = QkNorm::Weightless(spec.head.norm.eps);
    for (layer, block) in spec.blocks.iter_mut().enumerate() {
        let is_rotated = bases.as_ref().map_or_else(|| is_local(layer), |bases| bases[layer] > 0.0);
        block.norms_mut().for_each(|norm| norm.less = 1.0);
        block.norms_after_mut().for_each(|norm| norm.eps = eps_after);
        let attention = &mut block.attention.part;
        (attention.gate, attention.qk_norm) = (Some(AttentionGate::PerValue), qk_norm.clone());
        (attention.scale, attention.rope) = (attention.scale * factor, is_rotated.then_some(0));
    }
    spec.embed.norm = Some(NormSpec { kind: NormKind::RmsWeightless, ..spec.head.norm.clone() });
    spec.head.scale = Some(config.factor("output_multiplier")?);
    spec.head.cap = Some(config.factor("final_logit_softcapping")?);
    // mlx-lm counts kinds of blocks from the first where the config does not say.
    spec.write_layer_types();
    spec.write_layer_bases();
    Ok(spec)
}
