//! Qwen3 with experts (Qwen3-30B-A3B): Qwen3's attention, and in most blocks an MLP of which a router chooses a part.

use super::TensorShapes;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::spec::{DecoderSpec, ExpertsSpec, QkNorm, RopeScaling};

/// Every `decoder_sparse_step`-th block has experts, unless `mlp_only_layers` names it. A sliding window holds in every
/// block.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let mut spec = DecoderSpec::from_config(config, 10_000.0)?;
    spec.qk_norm = QkNorm::Weighted;
    if config.boolean("use_sliding_window")?.unwrap_or(false) {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes.push("sliding windows are applied as transformers does; mlx-lm ignores them".to_owned());
    }
    if spec.rope.scaling != RopeScaling::Default {
        spec.notes
            .push("rope_scaling is applied as transformers does; mlx-lm's qwen3_moe ignores it".to_owned());
    }
    let experts = ExpertsSpec {
        count: config.require_size("num_experts")?,
        per_token: config.require_size("num_experts_per_tok")?,
        intermediate_size: config.require_size("moe_intermediate_size")?,
        normalized: config.boolean("norm_topk_prob")?.unwrap_or(false),
    };
    let step = config.size("decoder_sparse_step")?.unwrap_or(1);
    let dense = config.indices("mlp_only_layers")?.unwrap_or_default();
    spec.set_experts(config, experts, |block| !dense.contains(&block) && (block + 1).is_multiple_of(step))?;
    // mlx-lm has no defaults for these.
    spec.resolved.extend([
        ("head_dim", spec.head_dim.into()),
        ("num_key_value_heads", spec.num_key_value_heads.into()),
        ("norm_topk_prob", experts.normalized.into()),
        ("decoder_sparse_step", step.into()),
        ("mlp_only_layers", dense.into()),
    ]);
    Ok(spec)
}
