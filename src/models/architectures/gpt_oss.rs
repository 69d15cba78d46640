//! gpt-oss: biases everywhere, a learned score beside the keys in each head, windows in every other block, and experts with a
//! clamped activation.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::derived::{Derived, Step};
use crate::models::names::{Rename, rename_common};
use crate::models::spec::{Activation, Biases, DecoderSpec, EXPERT_NAMES, ExpertNames, ExpertsSpec, Score};

/// Defaults of transformers' `GptOssConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 201_088),
    KeyDefault::size("hidden_size", 2880),
    KeyDefault::size("intermediate_size", 2880),
    KeyDefault::size("num_hidden_layers", 36),
    KeyDefault::size("num_attention_heads", 64),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::size("head_dim", 64),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 150_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
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
    let config = if has_rope { config } else { config.with_value("rope_scaling", usual_scaling()) };
    let config = &config;
    let mut spec = DecoderSpec::from_config(config)?;
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    spec.note_biases(config, bias);
    spec.note_head(config, false);
    spec.set_sliding_windows(config, |block| block.is_multiple_of(2))?;
    spec.attentions_mut().for_each(|attention| attention.sinks = true);
    let number = |key| Ok::<_, crate::error::Error>(config.required(key, ModelConfig::positive)? as f32);
    let (alpha, limit) = (number("swiglu_alpha")?, number("swiglu_limit")?);
    spec.mlps_mut().for_each(|mlp| mlp.activation = Activation::ClampedSwish { alpha, limit });
    if (alpha - 1.702).abs() > f32::EPSILON || (limit - 7.0).abs() > f32::EPSILON {
        spec.notes.push(
            "swiglu_alpha and swiglu_limit are those of config.json; mlx-lm has 1.702 and 7".to_owned(),
        );
    }
    let size = |key| config.require_size(key);
    let experts = ExpertsSpec::new(
        size("num_local_experts")?,
        size("num_experts_per_tok")?,
        size("intermediate_size")?,
    );
    let experts = ExpertsSpec { names: &NAMES, score: Score::SoftmaxOfChosen, ..experts };
    spec.set_experts(config, ExpertsSpec { bias: true, router_bias: true, ..experts }, |_| true)?;
    spec.write_layer_types();
    Ok(spec)
}

/// Returns what the class takes where config.json has no scaling.
fn usual_scaling() -> serde_json::Value {
    serde_json::json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
        "original_max_position_embeddings": 4096})
}

/// Names the experts' matrices, rows of gate and up taking turns, and their biases. Floats are stored [experts, in, out]; layers
/// in mxfp4 are [experts, out, in].
pub fn rename(name: &str) -> Rename {
    let Some((experts, part)) = name.split_once(".experts.") else { return rename_common(name) };
    let turns = |part: &str, before: &[Step], after: &[Step]| {
        let derived = |name: &str, first: usize| {
            let steps = [before, &[Step::Every { step: 2, first }], after].concat();
            Derived::new(format!("{experts}.experts.{name}.{part}"), steps)
        };
        Rename::Derived(vec![derived("gate_proj", 0), derived("up_proj", 1)])
    };
    let transposed = &[Step::Transposed];
    match part {
        "gate_up_proj" => turns("weight", transposed, &[]),
        "gate_up_proj.weight" => turns("weight", &[], &[]),
        "gate_up_proj_bias" => turns("bias", transposed, transposed),
        "down_proj" => Rename::transposed(format!("{experts}.experts.down_proj.weight")),
        "down_proj_bias" => Rename::To(format!("{experts}.experts.down_proj.bias")),
        _ => Rename::Keep,
    }
}
