//! Phi-3, 3.5 and 4: Llama's block with queries, keys and values in one matrix, and gate and up in another.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Biases, DecoderSpec, Projections, Rope, RopeScaling};

/// Defaults of transformers' `Phi3Config`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 32_064),
    KeyDefault::size("hidden_size", 3072),
    KeyDefault::size("intermediate_size", 8192),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 4096).minor(),
    KeyDefault::size("original_max_position_embeddings", 4096).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", 1.0).minor(),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::optional_size("sliding_window"),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    let rope = Rope::partial(config, 1.0)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    write_rope(config, &mut spec);
    spec.set_biases(Biases::default());
    spec.attentions_mut().for_each(|attention| attention.projections = Projections::Fused);
    spec.mlps_mut().for_each(|mlp| mlp.projections = Projections::Fused);
    if config.size("sliding_window")?.is_some() {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes
            .push("sliding_window is applied as transformers does; mlx-lm's phi3 ignores it".to_owned());
    }
    Ok(spec)
}

/// Writes what mlx-lm's phi3 reads in another place, or under an older name.
pub(super) fn write_rope(config: &ModelConfig, spec: &mut DecoderSpec) {
    let share = config.get("rope_parameters.partial_rotary_factor");
    spec.resolved.extend(share.map(|share| ("partial_rotary_factor", share.clone())));
    if matches!(spec.ropes[0].scaling, RopeScaling::LongRope { .. }) {
        for (key, value) in &mut spec.resolved {
            if *key == "rope_scaling"
                && let Some(scaling) = value.as_object_mut()
            {
                scaling.insert("type".to_owned(), "longrope".into());
            }
        }
        let note = "longrope has other factors up to the trained context, as in transformers; mlx-lm takes the long ones always";
        spec.notes.push(note.to_owned());
    }
}
