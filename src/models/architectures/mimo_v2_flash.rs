//! `MiMo`-V2-Flash: narrow values times a factor, windows with heads, scores and a rotation of their own, and experts.

use super::names::TensorShapes;
use super::{glm4_moe, llama, mimo_v2_keys};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{
    AttentionSpan, Biases, DecoderSpec, EXPERT_NAMES, LLAMA_NAMES, ModuleNames, Rope, sparse_blocks,
};

/// Defaults of transformers' `MiMoV2FlashConfig`.
pub const DEFAULTS: &[KeyDefault] =
    extended!(llama::SHARED, &sizes([152_576, 4096, 16_384, 48, 64, 4]), glm4_moe::EXPERTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 192),
    KeyDefault::size("v_head_dim", 128),
    KeyDefault::nullable_number("attention_value_scale", 0.707),
    KeyDefault::size("sliding_window", 129).minor(),
    KeyDefault::number("rope_theta", 5_000_000.0),
    KeyDefault::number("rope_local_base_freq", 10_000.0).minor(),
    KeyDefault::number("partial_rotary_factor", 0.334),
    KeyDefault::size("moe_intermediate_size", 2048),
    KeyDefault::size("n_routed_experts", 256),
    KeyDefault::nullable_number("routed_scaling_factor", 1.0).minor(),
];

const NAMES: ModuleNames = ModuleNames { sinks: "attention_sink_bias", ..LLAMA_NAMES };

/// Describes the decoder. Blocks with a window have twice the heads of keys unless the config says how many.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &mimo_v2_keys::read(config)?;
    let ropes = Rope::by_layer_type(config, "rope_local_base_freq")?;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.set_names(&NAMES);
    let qkv = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { qkv, ..Biases::default() });
    let count = spec.blocks.len();
    let windows = config.flags_of_layers("hybrid_layer_pattern", count)?;
    let slides = |block: usize| block > 0 && !(block + 1).is_multiple_of(6);
    spec.set_sliding_windows(config, |block| windows.as_ref().map_or(slides(block), |flags| flags[block]))?;
    spec.set_ropes_by_span();
    let heads = config.require_size("num_attention_heads")?;
    let kv_heads = config.require_size("num_key_value_heads")?;
    let kv_heads = [kv_heads, config.size("swa_num_key_value_heads")?.unwrap_or(2 * kv_heads)];
    let flag = |key, usual| Ok::<_, crate::error::Error>(config.boolean(key)?.unwrap_or(usual));
    let sinks = [flag("add_full_attention_sink_bias", false)?, flag("add_swa_attention_sink_bias", true)?];
    for block in 0..count {
        let kind = usize::from(spec.blocks[block].attention.part.span != AttentionSpan::Full);
        spec.set_heads(config, "swa_num_key_value_heads", block, [heads, kv_heads[kind]])?;
        spec.blocks[block].attention.part.sinks = sinks[kind];
    }
    let factor = config.number("attention_value_scale")?.map(|factor| factor as f32);
    spec.set_values(config.require_size("v_head_dim")?, factor);
    let is_sparse = sparse_blocks(config, "moe_layer_freq", count, |block| block > 0)?;
    spec.set_deepseek_experts(config, &EXPERT_NAMES, |block| is_sparse[block])?;
    mimo_v2_keys::write(config, &mut spec, kv_heads[1], sinks);
    Ok(spec)
}
