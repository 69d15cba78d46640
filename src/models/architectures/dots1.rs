//! dots.llm1: Qwen3's attention, with experts as in GLM-4.5 after the first blocks.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{Biases, DecoderSpec, EXPERT_NAMES, ExpertNames};

/// Defaults of transformers' `Dots1Config`.
pub const DEFAULTS: &[KeyDefault] =
    extended!(llama::SHARED, &sizes([152_064, 4608, 10_944, 62, 32, 32]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::nullable_size("sliding_window", 4096).minor(),
    KeyDefault::nullable_size("max_window_layers", 62).minor(),
    KeyDefault::size("moe_intermediate_size", 1408),
    KeyDefault::optional_size("num_experts_per_tok"),
    KeyDefault::optional_size("n_shared_experts"),
    KeyDefault::optional_size("n_routed_experts"),
    KeyDefault::number("routed_scaling_factor", 1.0).minor(),
    KeyDefault::nullable_size("n_group", 1).minor(),
    KeyDefault::nullable_size("topk_group", 1).minor(),
    KeyDefault::nullable_size("first_k_dense_replace", 0).minor(),
    KeyDefault::nullable_boolean("norm_topk_prob", false),
];

const NAMES: ExpertNames = ExpertNames { experts: "experts", ..EXPERT_NAMES };

/// Describes the decoder; the blocks from `max_window_layers` on have a window.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("n_routed_experts", "num_local_experts")?.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_qk_norms();
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    spec.note_biases_of_queries(config);
    let late = config.size("max_window_layers")?.unwrap_or(usize::MAX);
    if spec.blocks.len() > late && config.size("sliding_window")?.is_some() {
        spec.set_sliding_windows(config, |block| block >= late)?;
        spec.note_windows(config);
    }
    let dense = config.count("first_k_dense_replace")?.unwrap_or(0);
    spec.set_deepseek_experts(config, &NAMES, |block| block >= dense)?;
    Ok(spec)
}
