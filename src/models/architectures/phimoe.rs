//! Phi-3.5 with experts: layer norms, biases in attention, and weights by the sparse mixer.

use super::names::TensorShapes;
use super::{llama, phi3};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{Biases, DecoderSpec, ExpertsSpec, LOCAL_EXPERT_KEYS, NormKind, Rope, Score};

/// Defaults of transformers' `PhimoeConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([32_064, 4096, 6400, 32, 32, 8]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::boolean("lm_head_bias", false),
    KeyDefault::optional_size("sliding_window"),
    KeyDefault::size("num_local_experts", 16),
    KeyDefault::size("num_experts_per_tok", 2),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_local_experts", "num_experts")?.with_defaults(DEFAULTS);
    config.only("num_experts_per_tok", &2.into())?;
    config.only_silu()?;
    let rope = Rope::from_config(config)?.with_mscales(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    phi3::write_rope(config, &mut spec);
    spec.set_norms(NormKind::Layer);
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    let head = config.required("lm_head_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { head, ..Biases::of_parts(bias, false) });
    spec.note_biases(config, bias && head);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    spec.set_mlp_name("block_sparse_moe");
    if config.size("sliding_window")?.is_some_and(|window| spec.max_position_embeddings > Some(window)) {
        spec.set_sliding_windows(config, |_| true)?;
        spec.note_windows(config);
    }
    let experts = ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?;
    let jitter = config.required("router_jitter_noise", ModelConfig::number)? as f32;
    spec.set_experts(config, ExpertsSpec { score: Score::Mixer { jitter }, ..experts }, |_| true)?;
    spec.resolved.push(("num_local_experts", experts.count.into()));
    Ok(spec)
}
