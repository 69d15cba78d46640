//! OLMo 2: norms of each part's output and none of its input; queries and keys are normalized over all heads at once.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, NormSpec};

/// Defaults of transformers' `Olmo2Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 50_304),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 11_008),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    make_olmo(&mut spec);
    Ok(spec)
}

/// Sets what OLMo 2 and 3 have in common.
pub(super) fn make_olmo(spec: &mut DecoderSpec) {
    spec.mlps_mut().for_each(|mlp| (mlp.gate_up_bias, mlp.down_bias) = (false, false));
    spec.set_norms_of_all_heads();
    set_norms_of_outputs(spec);
}

/// Gives each part a norm of its output, and none of its input.
pub(super) fn set_norms_of_outputs(spec: &mut DecoderSpec) {
    for block in &mut spec.blocks {
        let after = |name: &str, norm: Option<NormSpec>| {
            norm.map(|norm| NormSpec { path: format!("{}.{name}", block.path), ..norm })
        };
        block.attention.after = after("post_attention_layernorm", block.attention.before.take());
        block.mlp.after = after("post_feedforward_layernorm", block.mlp.before.take());
    }
}
