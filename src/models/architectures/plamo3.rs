//! `PLaMo` 3: Gemma 3's block with fused matrices, and norm weights that are stored less a number of each place.

use super::module_names::PLAMO3;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{AttentionSpan, Biases, DecoderSpec, Projections, Rope};

/// Defaults of mlx-lm's arguments.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 32_000),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 13_312),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 4),
    KeyDefault::size("head_dim", 128),
    KeyDefault::size("max_position_embeddings", 2048).minor(),
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::number("rope_local_theta", 10_000.0),
    KeyDefault::boolean("tie_word_embeddings", true),
    KeyDefault::size("window_size", 2048).minor(),
    KeyDefault::optional_size("sliding_window"),
    KeyDefault::size("sliding_window_pattern", 8).minor(),
];

/// Describes the decoder. A block without a window is the last of each `sliding_window_pattern`.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_defaults(DEFAULTS);
    config.only("linear_type", &"normal".into())?;
    let window = config.size("sliding_window")?.map_or_else(|| config.require_size("window_size"), Ok)?;
    let config = &config.with_value("sliding_window", window.into());
    let ropes = Rope::by_layer_type(config, "rope_local_theta")?;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    let [full, local] = ropes.map(|rope| rope.theta.into());
    spec.resolved.extend([("rope_theta", full), ("rope_local_theta", local)]);
    spec.set_names(&PLAMO3);
    spec.set_biases(Biases::default());
    let pattern = config.require_size("sliding_window_pattern")?;
    spec.set_sliding_windows(config, |layer| !(layer + 1).is_multiple_of(pattern))?;
    spec.set_qk_norms();
    for block in &mut spec.blocks {
        block.attention.set_norm_after(format!("{}.post_mixer_norm", block.path));
        block.mlp.set_norm_after(format!("{}.post_mlp_norm", block.path));
    }
    spec.norms_mut().for_each(|norm| norm.less = 1.0);
    for block in &mut spec.blocks {
        block.attention.after.iter_mut().for_each(|norm| norm.less = 0.2);
        block.mlp.after.iter_mut().for_each(|norm| norm.less = 5f32.powf(-1.5));
        block.attention.part.projections = Projections::Fused;
        block.mlp.part.projections = Projections::Fused;
        block.attention.part.rope = Some(usize::from(block.attention.part.span != AttentionSpan::Full));
    }
    Ok(spec)
}
