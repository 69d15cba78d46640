//! MobileLLM-R1: Llama 4's text decoder without experts.
//!
//! Config and weights are at odds in several places; `notes` says what is done about each.

use super::names::TensorShapes;
use crate::error::{Error, Result};
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::{Rename, rename_common};
use crate::models::spec::{AttentionSpan, AttentionSpec, DecoderSpec, QkNorm, TemperatureTuning};

/// Defaults of transformers' `Llama4TextConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 202_048),
    KeyDefault::size("hidden_size", 5120),
    KeyDefault::size("intermediate_size", 8192),
    KeyDefault::size("num_hidden_layers", 48),
    KeyDefault::size("num_attention_heads", 40),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::size("head_dim", 128),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("use_qk_norm", true),
    KeyDefault::size("no_rope_layer_interval", 4).minor(),
    KeyDefault::nullable_size("attention_chunk_size", 8192).minor(),
    KeyDefault::boolean("attn_temperature_tuning", true),
    KeyDefault::number("floor_scale", 8192.0).minor(),
    KeyDefault::number("attn_scale", 0.1).minor(),
];

/// Describes the decoder: interleaved RoPE, weightless q/k norm, layers without RoPE, one gated MLP called `feed_forward`.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = with_attention(config)?;
    "output".clone_into(&mut spec.head.path);
    spec.head.quantized_tied = false;
    set_intermediate_size(config, shapes, &mut spec)?;
    let norm = config.required("use_qk_norm", ModelConfig::boolean)?;
    if norm && spec.attentions().any(|attention| attention.rope.is_none()) {
        spec.notes.push(
            "q/k norm is left out in layers without RoPE as transformers does; mlx-lm applies it".to_owned(),
        );
    }
    if spec.temperature_tuning.is_some() {
        spec.notes
            .push("attn_temperature_tuning is applied as transformers does; mlx-lm ignores it".to_owned());
    }
    spec.note_rope_scaling(config);
    spec.resolved.push(("use_qk_norm", norm.into()));
    Ok(spec)
}

/// Describes a decoder with Llama 4's attention and one gated MLP per block.
pub(super) fn with_attention(config: &ModelConfig) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config)?;
    spec.ropes[0].traditional = true;
    spec.set_mlp_name("feed_forward");
    let norm = config.required("use_qk_norm", ModelConfig::boolean)?;
    set_rope_layers(config, &mut spec, norm)?;
    set_chunks(config, &mut spec)?;
    set_temperature(config, &mut spec)?;
    Ok(spec)
}

/// Renames an untied head, which is `lm_head` in Llama 4 and `output` in mlx-lm.
pub fn rename(name: &str) -> Rename {
    match name.strip_prefix("lm_head.") {
        Some(rest) => Rename::To(format!("output.{rest}")),
        None => rename_common(name),
    }
}

/// Sets the width of the MLP. `intermediate_size` is the experts' width and `intermediate_size_mlp` the dense MLP's, which
/// hints at a dual MLP that MobileLLM-R1 does not have: the tensors decide.
fn set_intermediate_size(config: &ModelConfig, shapes: &TensorShapes, spec: &mut DecoderSpec) -> Result<()> {
    if let Some(name) = shapes
        .keys()
        .find(|n| [".experts.", ".router.", ".shared_expert."].iter().any(|part| n.contains(part)))
    {
        return Err(Error::tensor(config.path(), name, "mixture-of-experts blocks are not supported")
            .hint("only dense llama4_text models such as MobileLLM-R1 can be used"));
    }
    let other = config.require_size("intermediate_size")?;
    let claimed = config.size("intermediate_size_mlp")?;
    let size =
        match shapes.get("model.layers.0.feed_forward.gate_proj.weight").and_then(|shape| shape.first()) {
            Some(&rows) => rows,
            None => claimed.unwrap_or(other),
        };
    if claimed.is_some() && claimed != Some(size) {
        spec.notes.push(format!(
            "the weights' MLP is {size} wide, the config's intermediate_size_mlp says {}: the weights decide",
            claimed.unwrap_or_default()
        ));
    } else if claimed.is_some_and(|claimed| claimed != other) {
        spec.notes.push(format!(
            "the config hints at a dual MLP ({other} and {size}); the weights have one, {size} wide"
        ));
    }
    spec.mlps_mut().for_each(|mlp| mlp.intermediate_size = size);
    spec.resolved.push(("intermediate_size_mlp", size.into()));
    Ok(())
}

/// Reads which of `count` layers have RoPE: those for which `no_rope_layers` is 1, or else all but every
/// `no_rope_layer_interval`-th.
pub(super) fn rope_flags(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    let mut flags = match config.booleans("no_rope_layers")? {
        Some(flags) if !flags.is_empty() => flags,
        _ => {
            let interval = config.require_size("no_rope_layer_interval")?;
            (0..count).map(|i| !(i + 1).is_multiple_of(interval)).collect()
        }
    };
    if flags.len() < count {
        return Err(config.error("no_rope_layers", format!("{} entries for {count} layers", flags.len())));
    }
    flags.truncate(count);
    Ok(flags)
}

/// Sets the layers with RoPE. A list of zeros would leave the model without positions.
fn set_rope_layers(config: &ModelConfig, spec: &mut DecoderSpec, norm: bool) -> Result<()> {
    let flags = rope_flags(config, spec.blocks.len())?;
    let artefact = flags.iter().all(|&rope| !rope);
    if artefact {
        spec.notes.push(
            "no_rope_layers turns RoPE off in every layer, a config artefact: applied everywhere".to_owned(),
        );
    }
    let eps = spec.head.norm.eps;
    for (attention, &rope) in spec.attentions_mut().zip(&flags) {
        attention.rope = (rope || artefact).then_some(0);
        if norm && attention.rope.is_some() {
            attention.qk_norm = QkNorm::Weightless(eps);
        }
    }
    let resolved: Vec<u8> = spec.attentions().map(|attention| attention.rope.is_some().into()).collect();
    spec.resolved.push(("no_rope_layers", resolved.into()));
    Ok(())
}

/// Sets the spans of attention. Layers with RoPE attend within chunks, 8192 tokens unless the config says otherwise.
fn set_chunks(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    if let Some(chunk) = config.size("attention_chunk_size")? {
        for attention in spec.attentions_mut().filter(|attention| attention.rope.is_some()) {
            attention.span = AttentionSpan::Chunked(chunk);
        }
    }
    Ok(())
}

/// Sets temperature tuning. `attn_scale` is no multiplier of the scores: it belongs to the temperature of layers without
/// RoPE.
fn set_temperature(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    let tuning = config.required("attn_temperature_tuning", ModelConfig::boolean)?;
    let unrotated = |attention: &AttentionSpec| attention.rope.is_none();
    if tuning && spec.attentions().any(unrotated) {
        spec.attentions_mut().for_each(|attention| attention.tempered = unrotated(attention));
        spec.temperature_tuning = Some(TemperatureTuning {
            floor_scale: config.required("floor_scale", ModelConfig::positive)?,
            attn_scale: config.required("attn_scale", ModelConfig::number)?,
            first_position: 1.0,
        });
    }
    Ok(())
}
