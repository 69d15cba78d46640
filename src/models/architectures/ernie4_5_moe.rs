//! ERNIE 4.5 with experts: interleaved rotation, softmax scores with a correction for the choice, and shared experts.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{Biases, DecoderSpec, ExpertsSpec, Normalization};

/// Defaults of transformers' `Ernie4_5_MoeConfig`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::USUAL, &sizes([103_424, 2560, 12_288, 28, 20, 4]), OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 500_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::nullable_boolean("use_bias", false),
    KeyDefault::size("moe_intermediate_size", 1536),
    KeyDefault::nullable_size("moe_k", 6),
    KeyDefault::nullable_size("moe_num_experts", 64),
    KeyDefault::nullable_size("moe_num_shared_experts", 2),
    KeyDefault::nullable_size("moe_layer_start_index", 1).minor(),
    KeyDefault::nullable_number("moe_layer_end_index", -1.0).minor(),
    KeyDefault::nullable_size("moe_layer_interval", 1).minor(),
    KeyDefault::nullable_number("moe_norm_min", 1e-12).minor(),
];

/// Describes the decoder. A model that mlx-lm wrote has no correction.
pub fn spec(config: &ModelConfig, shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.ropes[0].traditional = true;
    let bias = config.boolean("use_bias")?.unwrap_or(false);
    spec.set_biases(Biases::of_parts(bias, bias));
    spec.note_rope_scaling(config);
    let experts = ExpertsSpec::from_config(config, ["moe_num_experts", "moe_k", "moe_intermediate_size"])?;
    let least = config.positive("moe_norm_min")?.unwrap_or(0.0) as f32;
    let correction = shapes.is_empty() || shapes.keys().any(|name| name.ends_with("e_score_correction_bias"));
    let experts = ExpertsSpec { correction, normalization: Normalization::AtLeast(least), ..experts };
    let end = config.number("moe_layer_end_index")?.filter(|&end| end >= 0.0);
    let end = end.map_or(spec.blocks.len() - 1, |end| end as usize);
    let sparse = config.count("moe_layer_start_index")?.unwrap_or(0)..=end;
    let step = config.require_size("moe_layer_interval")?;
    spec.set_experts(config, experts, |block| sparse.contains(&block) && (block + 1).is_multiple_of(step))?;
    spec.set_counted_shared_experts(config, "moe_num_shared_experts", experts.intermediate_size)?;
    spec.extra.extend(["model.mtp_", "mtp_"].map(str::to_owned));
    spec.resolved.push(("moe_layer_end_index", end.into()));
    spec.note_if(correction, "experts are chosen with their correction; mlx-lm's ernie4_5_moe has none");
    Ok(spec)
}

/// Renames experts, and the correction, which is stored as a row of a matrix.
pub fn rename(name: &str) -> Rename {
    match name.strip_suffix(".moe_statics.e_score_correction_bias") {
        Some(mlp) => Rename::squeezed(format!("{mlp}.gate.e_score_correction_bias")),
        None => rename_experts(name),
    }
}
