//! ERNIE 4.5 with experts: Llama's block with interleaved rotation, softmax scores with a correction for the choice, and shared
//! experts.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::derived::{Derived, Step};
use crate::models::names::{Rename, rename_experts};
use crate::models::spec::{Biases, DecoderSpec, ExpertsSpec, Normalization};

/// Defaults of transformers' `Ernie4_5_MoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 103_424),
    KeyDefault::size("hidden_size", 2560),
    KeyDefault::size("intermediate_size", 12_288),
    KeyDefault::size("num_hidden_layers", 28),
    KeyDefault::size("num_attention_heads", 20),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::text("hidden_act", "silu"),
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
    let (size, blocks) = (|key| config.require_size(key), spec.blocks.len());
    let width = size("moe_intermediate_size")?;
    let experts = ExpertsSpec::new(size("moe_num_experts")?, size("moe_k")?, width);
    let least = config.positive("moe_norm_min")?.unwrap_or(0.0) as f32;
    let correction = shapes.is_empty() || shapes.keys().any(|name| name.ends_with("e_score_correction_bias"));
    let experts = ExpertsSpec { correction, normalization: Normalization::AtLeast(least), ..experts };
    let end = config.number("moe_layer_end_index")?.filter(|&end| end >= 0.0);
    let end = end.map_or(blocks - 1, |end| end as usize);
    let (start, step) = (config.count("moe_layer_start_index")?.unwrap_or(0), size("moe_layer_interval")?);
    spec.set_experts(config, experts, |block| {
        (start..=end).contains(&block) && (block + 1).is_multiple_of(step)
    })?;
    if let Some(shared) = config.count("moe_num_shared_experts")?.filter(|&shared| shared > 0) {
        spec.set_shared_experts(width * shared, None);
    }
    spec.extra.extend(["model.mtp_", "mtp_"].map(str::to_owned));
    spec.resolved.push(("moe_layer_end_index", end.into()));
    if correction {
        spec.notes
            .push("experts are chosen with their correction; mlx-lm's ernie4_5_moe leaves it out".to_owned());
    }
    Ok(spec)
}

/// Renames experts, and the correction, which is stored as a row of a matrix.
pub fn rename(name: &str) -> Rename {
    match name.strip_suffix(".moe_statics.e_score_correction_bias") {
        Some(mlp) => Rename::Derived(vec![Derived::new(
            format!("{mlp}.gate.e_score_correction_bias"),
            [Step::Squeezed],
        )]),
        None => rename_experts(name),
    }
}
