//! Blocks without RoPE as Llama 4 has them, and what the others have instead: chunks, and a norm of queries and keys.

use super::decoder::{DecoderSpec, TemperatureTuning};
use super::norm::QkNorm;
use super::parts::{AttentionSpan, AttentionSpec};
use crate::error::Result;
use crate::models::config::ModelConfig;

impl DecoderSpec {
    /// Sets which blocks are rotated, what the rotated ones have besides, and the temperature of the others.
    pub(crate) fn set_unrotated_blocks(&mut self, config: &ModelConfig) -> Result<()> {
        let norm = config.required("use_qk_norm", ModelConfig::boolean)?;
        set_rope_layers(config, self, norm)?;
        set_chunks(config, self)?;
        set_temperature(config, self)
    }
}

/// Reads which of `count` layers have RoPE: those for which `no_rope_layers` is 1, or else all but every
/// `no_rope_layer_interval`-th.
pub(crate) fn rope_flags(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
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
