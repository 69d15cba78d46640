//! gpt-oss: biases, a learned score in each head, windows in every other block, and experts with a clamped activation.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{
    Activation, Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, LOCAL_EXPERT_KEYS, Score,
};

/// Defaults of transformers' `GptOssConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, &sizes([201_088, 2880, 2880, 36, 64, 8]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("head_dim", 64),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 150_000.0),
    KeyDefault::boolean("attention_bias", true),
    KeyDefault::nullable_size("sliding_window", 128).minor(),
    KeyDefault::size("num_local_experts", 128),
    KeyDefault::size("num_experts_per_tok", 4),
    KeyDefault::number("swiglu_alpha", 1.702).minor(),
    KeyDefault::number("swiglu_limit", 7.0).minor(),
];

const NAMES: ExpertNames = ExpertNames { router: "router", experts: "experts", ..EXPERT_NAMES };

/// Describes the decoder. Without `layer_types` every other block has a window, the first one too.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_alias("num_local_experts", "num_experts")?.with_defaults(DEFAULTS);
    let has_rope = ["rope_scaling", "rope_parameters"].iter().any(|key| config.get(key).is_some());
    let config = &if has_rope { config } else { config.with_value("rope_scaling", usual_scaling()) };
    let mut spec = DecoderSpec::from_config(config)?;
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    spec.note_biases(config, bias);
    spec.note_head(config, false);
    spec.set_sliding_windows(config, |block| block.is_multiple_of(2))?;
    spec.attentions_mut().for_each(|attention| attention.sinks = true);
    let (alpha, limit) = (config.factor("swiglu_alpha")?, config.factor("swiglu_limit")?);
    spec.mlps_mut().for_each(|mlp| mlp.activation = Activation::ClampedSwish { alpha, limit });
    let differs = (alpha - 1.702).abs() > f32::EPSILON || (limit - 7.0).abs() > f32::EPSILON;
    spec.note_if(differs, "swiglu_alpha and swiglu_limit are those of config.json; mlx-lm has 1.702 and 7");
    let experts = ExpertsSpec::from_config(config, LOCAL_EXPERT_KEYS)?;
    let (bias, router_bias, score) = (true, true, Score::SoftmaxOfChosen);
    spec.set_experts(config, ExpertsSpec { names: &NAMES, bias, router_bias, score, ..experts }, |_| true)?;
    spec.write_layer_types();
    Ok(spec)
}

/// Returns what the class takes where config.json has no scaling.
fn usual_scaling() -> serde_json::Value {
    serde_json::json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
        "original_max_position_embeddings": 4096})
}
