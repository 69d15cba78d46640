//! OLMo 3: OLMo 2's block; three blocks with a window for one without, of which only the latter's rotation is scaled.

use super::names::TensorShapes;
use super::olmo2;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended};
use crate::models::spec::{AttentionSpan, DecoderSpec, Rope};

/// Defaults of transformers' `Olmo3Config`: OLMo 2's, but for these.
pub const DEFAULTS: &[KeyDefault] = extended!(olmo2::DEFAULTS, OWN);

const OWN: &[KeyDefault] =
    &[KeyDefault::number("rope_theta", 500_000.0), KeyDefault::nullable_size("sliding_window", 4096).minor()];

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    config.only_silu()?;
    let mut ropes = Rope::by_layer_type(config, "rope_theta")?;
    // transformers takes a base beside `rope_parameters` for blocks with full attention only.
    let own = config.positive("rope_parameters.sliding_attention.rope_theta")?;
    ropes[1].theta = own.or(config.default_of("rope_theta")).unwrap_or(ropes[1].theta);
    let written = ropes[0].written_by_layer_type(config);
    let differ = (ropes[0].theta - ropes[1].theta).abs() > f64::EPSILON;
    let theta = ropes[1].theta;
    let mut spec = DecoderSpec::with_ropes(config, ropes.to_vec())?;
    spec.resolved.extend(written);
    spec.set_sliding_windows(config, |layer| !(layer + 1).is_multiple_of(4))?;
    if differ {
        let note = format!(
            "blocks with a window have base {theta}, as in transformers; mlx-lm's olmo3 knows one base"
        );
        spec.notes.push(note);
    }
    olmo2::make_olmo(&mut spec);
    for attention in spec.attentions_mut() {
        attention.rope = Some(usize::from(attention.span != AttentionSpan::Full));
    }
    Ok(spec)
}
