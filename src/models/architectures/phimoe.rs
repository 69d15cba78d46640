//! Phi-3.5 with experts: layer norms, biases in attention, and weights by the sparse mixer.

use super::names::TensorShapes;
use super::{mixtral, phi3};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::names::Rename;
use crate::models::spec::{Biases, DecoderSpec, ExpertsSpec, NormKind, Rope, RopeScaling, Score};

/// Defaults of transformers' `PhimoeConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 32_064),
    KeyDefault::size("hidden_size", 4096),
    KeyDefault::size("intermediate_size", 6400),
    KeyDefault::size("num_hidden_layers", 32),
    KeyDefault::size("num_attention_heads", 32),
    KeyDefault::nullable_size("num_key_value_heads", 8),
    KeyDefault::text("hidden_act", "silu"),
    KeyDefault::size("max_position_embeddings", 131_072).minor(),
    KeyDefault::number("rms_norm_eps", 1e-5),
    KeyDefault::number("rope_theta", 1_000_000.0),
    KeyDefault::boolean("tie_word_embeddings", false),
    KeyDefault::boolean("attention_bias", false),
    KeyDefault::boolean("lm_head_bias", false),
    KeyDefault::optional_size("sliding_window"),
    KeyDefault::size("num_local_experts", 16),
    KeyDefault::size("num_experts_per_tok", 2),
];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_alias("num_local_experts", "num_experts")?.with_defaults(DEFAULTS);
    config.only("num_experts_per_tok", &2.into())?;
    config.only_silu()?;
    let mut rope = Rope::from_config(config)?;
    set_attention_factor(config, &mut rope)?;
    let mut spec = DecoderSpec::with_rope(config, rope)?;
    phi3::write_rope(config, &mut spec);
    spec.set_norms(NormKind::Layer);
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    let head = config.required("lm_head_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases { head, ..Biases::of_parts(bias, false) });
    spec.note_biases(config, bias && head);
    spec.note_head_dim(config);
    spec.note_head(config, false);
    spec.set_mlp_name("block_sparse_moe");
    if config.size("sliding_window")?.is_some_and(|window| spec.max_position_embeddings > Some(window)) {
        spec.set_sliding_windows(config, |_| true)?;
        spec.notes
            .push("sliding_window is applied as transformers does; mlx-lm's phimoe ignores it".to_owned());
    }
    let size = |key| config.require_size(key);
    let experts = ExpertsSpec::new(size("num_local_experts")?, 2, size("intermediate_size")?);
    let jitter = config.required("router_jitter_noise", ModelConfig::number)? as f32;
    spec.set_experts(config, ExpertsSpec { score: Score::Mixer { jitter }, ..experts }, |_| true)?;
    spec.resolved.push(("num_local_experts", experts.count.into()));
    Ok(spec)
}

/// Takes the factor on rotated queries and keys from `short_mscale`, which must be that of long texts too.
fn set_attention_factor(config: &ModelConfig, rope: &mut Rope) -> Result<()> {
    let group = Rope::group(config)?;
    let RopeScaling::LongRope { attention_factor, .. } = &mut rope.scaling else { return Ok(()) };
    let scale = |of: &str| config.required(&format!("{group}.{of}_mscale"), ModelConfig::positive);
    let (short, long) = (scale("short")?, scale("long")?);
    if (short - long).abs() > f64::EPSILON {
        let message = format!("{long} differs from short_mscale {short}, which is not supported");
        return Err(config.error(&format!("{group}.long_mscale"), message));
    }
    *attention_factor = short;
    Ok(())
}

/// Renames experts, which are called as Mixtral's.
pub fn rename(name: &str) -> Rename {
    mixtral::rename(name)
}
