//! Nemotron 3 and 4, Minitron: layer norms whose weights are stored less 1, an MLP of squares, half of each head rotated.

use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{Activation, DecoderSpec, NormKind, Rope, RopeScaling};

/// Defaults of transformers' `NemotronConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 256_000),
    KeyDefault::size("hidden_size", 6144),
    KeyDefault::size("intermediate_size", 24_576),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 48),
    KeyDefault::optional_size("num_key_value_heads"),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::text("hidden_act", "relu2"),
    KeyDefault::size("max_position_embeddings", 4096).minor(),
    KeyDefault::number("norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 10_000.0),
    KeyDefault::number("partial_rotary_factor", 0.5),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("mlp_bias", false),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS).with_names(&[("rms_norm_eps", "norm_eps")]);
    config.only_activation("hidden_act", &["relu2"])?;
    let rope = Rope::partial(config, 0.5)?;
    let share = rope.share(config)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    spec.set_norms(NormKind::Layer);
    spec.norms_mut().for_each(|norm| norm.less = 1.0);
    spec.set_plain_mlps(Activation::Relu2);
    spec.resolved.push(("partial_rotary_factor", share.into()));
    if !matches!(spec.ropes[0].scaling, RopeScaling::Default | RopeScaling::Linear { .. }) {
        spec.notes.push("mlx-lm's nemotron refuses this rope_scaling".to_owned());
    }
    Ok(spec)
}
