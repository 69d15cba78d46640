//! The text decoder of Muse Glimmer: norms before and after each part, a gate on what attention gives, and three blocks with a
//! window and a rotation for one without either.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{
    AttentionGate, AttentionSpan, Biases, DecoderSpec, NormKind, NormSpec, QkNorm, Rope,
};

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

/// Describes the decoder. The blocks without a window are counted from the last, every fourth.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_activation("hidden_activation", &["silu"])?;
    config.only("attention_bias", &false.into())?;
    let mut spec = DecoderSpec::with_rope(config, Rope::from_config(config)?)?;
    spec.set_biases(Biases::default());
    let last = spec.blocks.len() - 1;
    spec.set_sliding_windows(config, |layer| !(last - layer).is_multiple_of(4))?;
    let number = |key| Ok::<_, crate::error::Error>(config.required(key, ModelConfig::positive)? as f32);
    let (factor, eps_after) = (number("qk_scale_factor")?, number("post_norm_eps")?);
    spec.set_norms_after();
    let flags = rope_flags(config, spec.blocks.len())?;
    let eps = spec.head.norm.eps;
    for (block, is_rotated) in spec.blocks.iter_mut().zip(flags) {
        for norm in block.attention.after.iter_mut().chain(&mut block.mlp.after) {
            norm.eps = eps_after;
        }
        for norm in [
            &mut block.attention.before,
            &mut block.attention.after,
            &mut block.mlp.before,
            &mut block.mlp.after,
        ] {
            for norm in norm.iter_mut() {
                norm.less = 1.0;
            }
        }
        let attention = &mut block.attention.part;
        (attention.gate, attention.qk_norm) = (Some(AttentionGate::PerValue), QkNorm::Weightless(eps));
        (attention.scale, attention.rope) = (attention.scale * factor, is_rotated.then_some(0));
    }
    spec.embed.norm = Some(NormSpec { kind: NormKind::RmsWeightless, ..spec.head.norm.clone() });
    spec.head.scale = Some(number("output_multiplier")?);
    spec.head.cap = Some(number("final_logit_softcapping")?);
    write_layers(&mut spec);
    Ok(spec)
}

/// Returns which of `count` blocks are rotated: those with a base in `layer_rope_theta`, or all but every fourth from the last.
fn rope_flags(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    const KEY: &str = "layer_rope_theta";
    let Some(value) = config.get(KEY) else {
        return Ok((0..count).map(|layer| !(count - 1 - layer).is_multiple_of(4)).collect());
    };
    let flags =
        value.as_array().and_then(|list| list.iter().map(|base| Some(base.as_f64()? > 0.0)).collect());
    let flags: Vec<bool> = flags.ok_or_else(|| config.error(KEY, "expected a list of numbers"))?;
    if flags.len() != count {
        return Err(config.error(KEY, format!("{} entries for {count} layers", flags.len())));
    }
    Ok(flags)
}

/// Writes the kinds of blocks, which mlx-lm counts from the first where the config does not say.
fn write_layers(spec: &mut DecoderSpec) {
    let kind = |span| if span == AttentionSpan::Full { "full_attention" } else { "sliding_attention" };
    let kinds: Vec<&str> = spec.attentions().map(|attention| kind(attention.span)).collect();
    let base = |rope: Option<usize>| rope.map_or(0.0, |rope| spec.ropes[rope].theta);
    let bases: Vec<f64> = spec.attentions().map(|attention| base(attention.rope)).collect();
    spec.resolved.extend([("layer_types", kinds.into()), ("layer_rope_theta", bases.into())]);
}
