//! Klear: Qwen3's attention; a softmax of two weighs the chosen experts against the shared ones.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, EXPERT_KEYS, EXPERT_NAMES, ExpertNames, ExpertsSpec, SharedGate};

/// Keys that config.json may leave out. (mlx-lm's arguments have no defaults.)
pub const DEFAULTS: &[KeyDefault] = &[];

const NAMES: ExpertNames =
    ExpertNames { experts: "experts", correction: "expert_bias", shared_gate: "coefficient", ..EXPERT_NAMES };

/// Describes the decoder, whose head is never tied.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    config.only("tie_word_embeddings", &false.into())?;
    let config = &config.with_defaults(DEFAULTS).with_value("tie_word_embeddings", false.into());
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_qk_norms();
    spec.note_head_dim(config);
    spec.note_rope_scaling(config);
    let experts = ExpertsSpec::from_config(config, EXPERT_KEYS)?.corrected_sigmoids(&NAMES);
    let experts = experts.normalized_if_said(config, 0.0)?;
    let step = config.require_size("decoder_sparse_step")?;
    let dense = config.indices("mlp_only_layers")?.unwrap_or_default();
    spec.set_experts(config, experts, |block| !dense.contains(&block) && (block + 1).is_multiple_of(step))?;
    let shared = config.require_size("n_shared_experts")?;
    spec.set_shared_experts(experts.intermediate_size * shared, Some(SharedGate::Softmax));
    Ok(spec)
}
