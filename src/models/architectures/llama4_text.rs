//! MobileLLM-R1: Llama 4's text decoder without experts.

use super::llama;
use super::llama4_dense::set_intermediate_size;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::names::{Rename, rename_common};
use crate::models::spec::DecoderSpec;

/// Defaults of transformers' `Llama4TextConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([202_048, 5120, 8192, 48, 40, 8]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 500_000.0),
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
    let is_left_out = norm && spec.attentions().any(|attention| attention.rope.is_none());
    let note = "q/k norm is left out in layers without RoPE as transformers does; mlx-lm applies it";
    spec.note_if(is_left_out, note);
    let note = "attn_temperature_tuning is applied as transformers does; mlx-lm ignores it";
    spec.note_if(spec.temperature_tuning.is_some(), note);
    spec.note_rope_scaling(config);
    spec.resolved.push(("use_qk_norm", norm.into()));
    Ok(spec)
}

/// Describes a decoder with Llama 4's attention and one gated MLP per block.
pub(super) fn with_attention(config: &ModelConfig) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config)?;
    spec.ropes[0].traditional = true;
    spec.set_mlp_name("feed_forward");
    spec.set_unrotated_blocks(config)?;
    Ok(spec)
}

/// Renames an untied head, which is `lm_head` in Llama 4 and `output` in mlx-lm.
pub fn rename(name: &str) -> Rename {
    let head = name.strip_prefix("lm_head.").map(|rest| Rename::To(format!("output.{rest}")));
    head.unwrap_or_else(|| rename_common(name))
}
