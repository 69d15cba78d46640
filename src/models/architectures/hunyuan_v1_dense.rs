//! Hunyuan dense: Llama's block with norms of rotated queries and keys, and a base of the rotation that is stretched.

use super::llama;
use super::names::TensorShapes;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{Biases, DecoderSpec, LLAMA_NAMES, ModuleNames, Rope, RopeScaling};

/// Defaults of transformers' `HunYuanDenseV1Config`.
pub const DEFAULTS: &[KeyDefault] = extended!(llama::SHARED, OWN);

const OWN: &[KeyDefault] = &[
    KeyDefault::size("vocab_size", 290_943),
    KeyDefault::optional_size("head_dim"),
    KeyDefault::number("rms_norm_eps", 1e-5),
];

const NAMES: ModuleNames = ModuleNames { q_norm: "query_layernorm", k_norm: "key_layernorm", ..LLAMA_NAMES };

/// Describes the decoder. In a scaling of the kind `dynamic`, `alpha` stretches the base once and for all.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    let mut rope = Rope::from_config(config)?;
    let (written, notes) = (rope.written(config), rope.notes(config));
    let alpha = config.positive(&format!("{}.alpha", Rope::group(config)?))?;
    if let (Some(alpha), RopeScaling::Dynamic { .. }) = (alpha, &rope.scaling) {
        if rope.dims <= 2 {
            return Err(
                config.error("head_dim", format!("{}: alpha needs more than 2 dimensions", rope.dims))
            );
        }
        let dims = rope.dims as f64;
        rope = Rope::plain(rope.dims, rope.theta * alpha.powf(dims / (dims - 2.0)));
    }
    let mut spec = DecoderSpec::with_ropes(config, vec![rope])?;
    spec.resolved.extend(written);
    spec.notes.extend(notes);
    spec.set_names(&NAMES);
    let bias = config.required("attention_bias", ModelConfig::boolean)?;
    spec.set_biases(Biases::of_parts(bias, false));
    if config.boolean("use_qk_norm")?.unwrap_or(true) {
        spec.set_norms_of_rotated();
    }
    spec.note_rope_scaling(config);
    spec.write_rope_type();
    Ok(spec)
}
