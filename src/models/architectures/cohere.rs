//! Cohere's Command R and Aya: attention and MLP side by side behind one layer norm, interleaved RoPE, scaled logits.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{BlockSpec, DecoderSpec, NormKind, NormSpec, QkNorm};

/// Defaults of transformers' `CohereConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 256_000),
    KeyDefault::size("hidden_size", 8192),
    KeyDefault::size("intermediate_size", 22_528),
    KeyDefault::size("num_hidden_layers", 40),
    KeyDefault::size("num_attention_heads", 64),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 8192).minor(),
    KeyDefault::nullable_number("layer_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::boolean("attention_bias", false),
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
