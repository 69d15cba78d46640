//! Gemma 3, text only: norms before and after each part, and of queries and keys; five blocks with a window for one without,
//! each kind with a rotation of its own.

use super::gemma::make_gemma;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionSpan, DecoderSpec, Rope};

/// Defaults of transformers' `Gemma3TextConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 262_208),
    KeyDefault::size("hidden_size", 2304),
    KeyDefault::size("intermediate_size", 9216),
    KeyDefault::size("num_hidden_layers", 26),
    KeyDefault::size("num_attention_heads", 8),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::size("head_dim", 256),
    KeyDefault::text("hidden_activation", "gelu_pytorch_tanh"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::number("rope_local_base_freq", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::size("query_pre_attn_scalar", 256),
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
];

/// Describes the decoder. Attention scores are never capped, the logits only if the config says so.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_activation("hidden_activation", &["gelu_pytorch_tanh"])?;
    let ropes = Rope::by_layer_type(config, "rope_local_base_freq")?;
    let written = ropes[0].written_by_layer_type(config);
    let local = ("rope_local_base_freq", ropes[1].theta.into());
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.resolved.extend(written.into_iter().chain([local]));
    let pattern = config.size("sliding_window_pattern")?.unwrap_or(6);
    spec.set_sliding_windows(config, |layer| !(layer + 1).is_multiple_of(pattern))?;
    spec.set_qk_norms();
    spec.set_norms_after();
    make_gemma(config, &mut spec)?;
    let scale = (config.require_size("query_pre_attn_scalar")? as f32).powf(-0.5);
    for attention in spec.attentions_mut() {
        attention.scale = scale;
        attention.rope = Some(usize::from(attention.span != AttentionSpan::Full));
    }
    spec.head.cap = config.positive("final_logit_softcapping")?.map(|cap| cap as f32);
    write_pattern(config, &mut spec, pattern);
    Ok(spec)
}

/// Writes the distance of blocks with full attention, which is all that mlx-lm reads of the blocks' kinds.
fn write_pattern(config: &ModelConfig, spec: &mut DecoderSpec, pattern: usize) {
    let is_full: Vec<bool> =
        spec.attentions().map(|attention| attention.span == AttentionSpan::Full).collect();
    let distance = is_full.iter().position(|&full| full).map_or(pattern, |first| first + 1);
    if is_full.iter().enumerate().all(|(layer, &full)| full == (layer + 1).is_multiple_of(distance)) {
        if config.size("sliding_window_pattern").ok().flatten() != Some(distance) {
            spec.resolved.push(("sliding_window_pattern", distance.into()));
        }
        if distance > is_full.len() {
            spec.notes.push(format!(
                "no block has full attention: mlx-lm looks for it in block {distance} of {}, and cannot run this model",
                is_full.len()
            ));
        }
    } else {
        spec.notes
            .push("layer_types is applied as in transformers; mlx-lm knows regular patterns only".to_owned());
    }
}
