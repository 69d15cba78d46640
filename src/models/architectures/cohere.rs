//! Cohere's Command R and Aya: attention and MLP side by side behind one layer norm, interleaved RoPE, scaled logits.

use super::cohere2::SHARED;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{BlockSpec, DecoderSpec, NormKind, NormSpec, QkNorm};

/// Defaults of transformers' `CohereConfig`: those of both generations, but for these.
pub const DEFAULTS: &[KeyDefault] = extended!(SHARED, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::nullable_number("layer_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::nullable_number("logit_scale", 0.0625),
    KeyDefault { nullable: true, ..KeyDefault::boolean("use_qk_norm", false) },
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "layer_norm_eps")]);
    let mut spec = DecoderSpec::from_config(config)?;
    make_cohere(config, &mut spec)?;
    if config.boolean("use_qk_norm")?.unwrap_or(false) {
        let eps = spec.head.norm.eps;
        for attention in spec.attentions_mut() {
            let [q, k] = attention.norms_of([attention.head_dim; 2], eps);
            let kind = NormKind::LayerUnbiased;
            let q = NormSpec { heads: Some(attention.heads), kind, ..q };
            let k = NormSpec { heads: Some(attention.kv_heads), kind, ..k };
            attention.qk_norm = QkNorm::Weighted([q, k]);
        }
    }
    spec.note_head_dim(config);
    Ok(spec)
}

/// Sets what Cohere's generations have in common.
pub(super) fn make_cohere(config: &ModelConfig, spec: &mut DecoderSpec) -> Result<()> {
    config.only("layer_norm_bias", &false.into())?;
    spec.ropes[0].traditional = true;
    spec.set_norms(NormKind::LayerUnbiased);
    spec.blocks.iter_mut().for_each(BlockSpec::share_input);
    spec.mlps_mut().for_each(|mlp| (mlp.gate_up_bias, mlp.down_bias) = (false, false));
    spec.head.scale = Some(config.required("logit_scale", ModelConfig::positive)? as f32);
    spec.note_rope_scaling(config);
    spec.note_head(config, true);
    Ok(())
}
