//! `OpenELM`: blocks of different sizes, fused projections, norms of queries and keys.

use super::module_names::{OPENELM, OPENELM_KEYS};
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::KeyDefault;
use crate::models::spec::{DecoderSpec, Projections, Rope, divisible_size};

/// Defaults of mlx-lm's arguments, which are those of the makers' `OpenELMConfig`.
pub const DEFAULTS: &[KeyDefault] = &[
    KeyDefault::number("rms_norm_eps", 1e-6),
    KeyDefault::number("rope_freq_constant", 10_000.0),
    KeyDefault::boolean("ffn_with_glu", true),
    KeyDefault::boolean("normalize_qk_projections", true),
    KeyDefault::boolean("share_input_output_layers", true),
];

/// Most heads of a block, and the widest MLP, that are taken for meant.
const MOST: usize = 1 << 24;

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = config.with_defaults(DEFAULTS).with_names(OPENELM_KEYS);
    config.only("ffn_with_glu", &true.into())?;
    config.only_activation("activation_fn_name", &["swish", "silu"])?;
    let layers = config.require_size("num_hidden_layers")?;
    let sizes = |key| config.sizes_of_layers(key, layers, MOST);
    let (heads, kv_heads) = (sizes("num_query_heads")?, sizes("num_kv_heads")?);
    let factors = config.positives("ffn_multipliers", Some(layers))?;
    let theta = config.required("rope_freq_constant", ModelConfig::positive)?;
    let rope = Rope::plain(config.require_size("head_dim")?, theta);
    // The sizes of blocks follow.
    let config = config.with_value("num_attention_heads", 1.into());
    let config = &config.with_value("intermediate_size", 1.into());
    let mut spec = DecoderSpec::with_ropes(config, vec![rope])?;
    spec.set_names(&OPENELM);
    if config.required("normalize_qk_projections", ModelConfig::boolean)? {
        spec.set_qk_norms();
    }
    for (layer, block) in spec.blocks.iter_mut().enumerate() {
        let (attention, mlp) = (&mut block.attention.part, &mut block.mlp.part);
        (attention.projections, mlp.projections) = (Projections::Fused, Projections::Fused);
        (attention.heads, attention.kv_heads) = (heads[layer], kv_heads[layer]);
        mlp.intermediate_size = width(config, factors[layer])?;
        if !attention.heads.is_multiple_of(attention.kv_heads) {
            return Err(config.error("num_kv_heads", "does not divide num_query_heads in every layer"));
        }
    }
    Ok(spec)
}

/// Returns the width of an MLP: `factor` times the hidden size, as a multiple of `ffn_dim_divisor`.
fn width(config: &ModelConfig, factor: f64) -> Result<usize> {
    let (hidden, divisor) = (config.require_size("hidden_size")?, config.require_size("ffn_dim_divisor")?);
    match divisible_size((factor * hidden as f64).min(2.0 * MOST as f64), divisor) {
        width if width <= MOST => Ok(width),
        width => Err(config.error("ffn_multipliers", format!("an MLP of {width} is wider than {MOST}"))),
    }
}
