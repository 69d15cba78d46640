//! RoPE in a model's metadata. Llama 3's scaling stands in no key: a tensor has the factor of each wavelength, of which the
//! scaling is found again.

use serde_json::{Map, Value, json};
use std::f64::consts::PI;

use super::config::head_dim;
use super::gguf::Gguf;
use super::keys::{Keys, number};
use super::kind::Kind;
use crate::error::{Error, Result};

/// Base where the metadata has none.
const USUAL_BASE: f64 = 10_000.0;

const FREQUENCIES: &str = "rope_freqs.weight";

/// Adds base and scaling of RoPE to `config`.
pub(super) fn add(keys: &Keys<'_>, config: &mut Map<String, Value>) -> Result<()> {
    let base = keys.number("rope.freq_base")?.unwrap_or(USUAL_BASE);
    config.insert("rope_theta".to_owned(), number(base));
    let scaling = match factors(keys.gguf, FREQUENCIES)? {
        Some(factors) => Some(llama3(keys, &factors, base)?),
        None => scaling(keys)?,
    };
    config.extend(scaling.map(|scaling| ("rope_scaling".to_owned(), scaling)));
    Ok(())
}

/// Reads a scaling that stands in keys.
fn scaling(keys: &Keys<'_>) -> Result<Option<Value>> {
    let old = keys.number("rope.scale_linear")?.filter(|factor| (factor - 1.0).abs() > 1e-9);
    let factor = keys.number("rope.scaling.factor")?.or(old);
    match (keys.text("rope.scaling.type")?, factor) {
        (Some("none"), _) | (None, None) => Ok(None),
        (Some("linear") | None, Some(factor)) => {
            Ok(Some(json!({"rope_type": "linear", "factor": number(factor)})))
        }
        (Some("yarn"), Some(factor)) => {
            let mut scaling = json!({"rope_type": "yarn", "factor": number(factor)});
            let original = keys.required_size("rope.scaling.original_context_length")?;
            scaling["original_max_position_embeddings"] = original.into();
            for name in ["beta_fast", "beta_slow"] {
                if let Some(beta) = keys.number(&format!("rope.scaling.yarn_{name}"))? {
                    scaling[name] = number(beta);
                }
            }
            Ok(Some(scaling))
        }
        (Some(kind @ ("linear" | "yarn")), None) => {
            Err(keys.error("rope.scaling.factor", format!("missing, and {kind} scaling needs it")))
        }
        (Some(other), _) => Err(keys
            .error("rope.scaling.type", format!("`{other}` is not read for this architecture"))
            .hint("scalings that are read: none, linear, yarn, and longrope of phi3")),
    }
}

/// Returns the keys of a scaling by factors for short and for long texts, where the model has them.
pub(super) fn longrope(keys: &Keys<'_>) -> Result<Option<Value>> {
    let [short, long] =
        ["short", "long"].map(|kind| factors(keys.gguf, &format!("rope_factors_{kind}.weight")));
    match (short?, long?) {
        (None, None) => Ok(None),
        (Some(short), Some(long)) => Ok(Some(
            json!({"type": "longrope", "rope_type": "longrope", "short_factor": short, "long_factor": long}),
        )),
        _ => Err(Error::file(
            keys.gguf.path(),
            "has factors of RoPE for short or for long texts alone, expected both",
        )),
    }
}

/// Returns the values of a vector, where there is one called `name`.
fn factors(gguf: &Gguf, name: &str) -> Result<Option<Vec<f64>>> {
    let Some((shard, place)) = gguf.tensor(name) else { return Ok(None) };
    if place.kind != Kind::F32 || place.shape.len() != 1 {
        return Err(Error::tensor(
            &shard.path,
            name,
            format!("is {} {:?}, expected a vector of F32", place.kind.name(), place.shape),
        ));
    }
    let single = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes).to_string().parse().unwrap_or(f64::NAN);
    let values: Vec<f64> = shard.map[place.start..place.end].as_chunks().0.iter().map(single).collect();
    if values.iter().any(|value| !value.is_finite() || *value <= 0.0) {
        return Err(Error::tensor(&shard.path, name, "has a value that is no positive number"));
    }
    Ok(Some(values))
}

/// Finds the settings of Llama 3's scaling that give `factors`. Wavelengths alone tell the trained context only up to a factor that
/// both bounds share, so these are the published ones, 1 and 4.
fn llama3(keys: &Keys<'_>, factors: &[f64], base: f64) -> Result<Value> {
    let dims = head_dim(keys)?;
    let stretch = factors.iter().copied().fold(1.0, f64::max);
    let (low, high) = (1.0, 4.0);
    let fits = |original: f64| {
        factors.len() == dims / 2
            && factors.iter().enumerate().all(|(index, factor)| {
                let wavelength = 2.0 * PI * base.powf((2 * index) as f64 / dims as f64);
                let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                let expected = 1.0 / ((1.0 - smooth) / stretch + smooth);
                (factor / expected - 1.0).abs() < 1e-4
            })
    };
    let powers = (5..21).map(|power| f64::from(1u32 << power));
    // 8192 first: where no wavelength is between the bounds, several fit.
    let Some(original) = [8192.0].into_iter().chain(powers).find(|&original| fits(original)) else {
        return Err(Error::tensor(
            keys.gguf.path(),
            FREQUENCIES,
            format!("its {} factors are not those of Llama 3's scaling for heads of {dims}", factors.len()),
        ));
    };
    Ok(json!({
        "rope_type": "llama3",
        "factor": number(stretch),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": number(original),
    }))
}
