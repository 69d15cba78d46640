//! EXAONE 4: norms of what each part gives, and of queries and keys; where some blocks have a window, only those are rotated.

use serde_json::Value;

use super::llama;
use super::names::TensorShapes;
use super::olmo2::set_norms_of_outputs;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::defaults::{KeyDefault, extended, sizes};
use crate::models::spec::{AttentionSpan, Biases, DecoderSpec, WindowPattern};

/// Defaults of transformers' `Exaone4Config`.
pub const DEFAULTS: &[KeyDefault] =
    extended!(SHARED, &[KeyDefault::nullable_size("sliding_window", 4096).minor()]);

/// Defaults that K-EXAONE has too.
pub(super) const SHARED: &[KeyDefault] = extended!(
    llama::USUAL,
    &sizes([102_400, 4096, 16_384, 32, 32, 32]),
    &[
        KeyDefault::number("rms_norm_eps", 1e-5),
        KeyDefault::nullable_size("sliding_window_pattern", 4).minor(),
    ]
);

/// Describes the decoder.
pub fn spec(config: &ModelConfig, _shapes: &TensorShapes) -> Result<DecoderSpec> {
    let config = &config.with_defaults(DEFAULTS);
    let mut spec = DecoderSpec::from_config(config)?;
    spec.set_biases(Biases::default());
    spec.set_qk_norms();
    set_norms_of_outputs(&mut spec);
    let pattern = WindowPattern::from_config(config, "sliding_window_pattern")?;
    spec.set_sliding_windows(config, |block| pattern.is_sliding(block))?;
    let slides = config.size("sliding_window")?.is_some();
    let (mut letters, is_local) = (String::new(), |span| span != AttentionSpan::Full);
    for attention in spec.attentions_mut() {
        attention.rope = (!slides || is_local(attention.span)).then_some(0);
        letters.push(if is_local(attention.span) { 'L' } else { 'G' });
    }
    let head_dim = spec.attentions().next().map(|attention| attention.head_dim);
    spec.resolved.extend(head_dim.map(|head_dim| ("head_dim", head_dim.into())));
    // mlx-lm has no defaults for these, and reads letters only.
    let letters = if slides { letters.into() } else { Value::Null };
    spec.resolved.push(("sliding_window_pattern", letters));
    spec.write_absent(config, &["sliding_window", "rope_scaling"]);
    Ok(spec)
}
