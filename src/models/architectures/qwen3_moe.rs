//! Qwen3 with experts (Qwen3-30B-A3B): Qwen3's attention, and in most blocks an MLP of which a router chooses a part.

use super::names::TensorShapes;
use super::qwen3;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extend, extended_len};
use crate::models::spec::{DecoderSpec, ExpertsSpec};

/// Defaults of transformers' `Qwen3MoeConfig`: Qwen3's, but for these.
pub const DEFAULTS: &[KeyDefault] = &extend::<{ extended_len(qwen3::DEFAULTS, OWN) }>(qwen3::DEFAULTS, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("hidden_size", 2048),
    KeyDefault::size("intermediate_size", 6144),
    KeyDefault::size("num_hidden_layers", 24),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::optional_size("max_window_layers"),
    KeyDefault::size("decoder_sparse_step", 1).minor(),
    KeyDefault::size("moe_intermediate_size", 768),
    KeyDefault::size("num_experts", 128),
    KeyDefault::size("num_experts_per_tok", 8),
    KeyDefault::boolean("norm_topk_prob", false),
];

/// Describes the decoder: every `decoder_sparse_step`-th block has experts, unless `mlp_only_layers` names it. A sliding
/// window holds in every block.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_qk_norms();
    if config.required("use_sliding_window", ModelConfig::boolean)? {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes.push("sliding windows are applied as transformers does; mlx-lm ignores them".to_owned());
    }
    spec.note_rope_scaling(config);
    set_experts(config, &mut spec)?;
    Ok(spec)
}

/// Makes MLPs of experts, as a config with defaults says.
pub(super) fn set_experts(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    let size = |key| config.require_size(key);
    let normalized = config.required("norm_topk_prob", ModelConfig::boolean)?;
    let experts =
        ExpertsSpec::new(size("num_experts")?, size("num_experts_per_tok")?, size("moe_intermediate_size")?);
    let experts = experts.normalized(normalized, 0.0);
    let step = config.require_size("decoder_sparse_step")?;
    let dense = config.indices("mlp_only_layers")?.unwrap_or_default();
    spec.set_experts(config, experts, |block| !dense.contains(&block) && (block + 1).is_multiple_of(step))?;
    let attention = spec.attentions().next().map(|attention| (attention.head_dim, attention.kv_heads));
    let (head_dim, kv_heads) = attention.unwrap_or_default();
    // mlx-lm has no defaults for these, and does not know transformers 5's name for the first.
    spec.resolved.extend([
        ("num_experts", experts.count.into()),
        ("head_dim", head_dim.into()),
        ("num_key_value_heads", kv_heads.into()),
        ("norm_topk_prob", normalized.into()),
        ("decoder_sparse_step", step.into()),
        ("mlp_only_layers", dense.into()),
    ]);
    Ok(())
}
