//! Rotary position embedding: base, scaling and layout, read from either spelling of the config.

use serde_json::{Map, Value};
use std::f64::consts::PI;

use super::decoder::head_dim;
use crate::error::Result;
use crate::files::json;
use crate::models::config::ModelConfig;

/// Rotation of queries and keys by their positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Dimensions of a head that are rotated.
    pub dims: usize,
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Interleaved pairs (2i, 2i+1) instead of halves (i, i + `head_dim`/2).
    pub traditional: bool,
    /// True if the angles are negative.
    pub reversed: bool,
    /// Extension of the context.
    pub scaling: RopeScaling,
}

/// `YaRN` with `TeleChat3`'s factor on attention.
pub(crate) const TELECHAT3_YARN: &str = "telechat3-yarn";

/// Context extension, under the names that transformers uses for `rope_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// NTK-aware: the base grows with the sequence once it is longer than the trained context.
    Dynamic {
        /// Growth factor.
        factor: f64,
        /// Trained context in tokens.
        max_positions: f64,
    },
    /// Llama 3: long wavelengths stretched, short ones kept, a ramp between.
    Llama3 {
        /// Stretch of the long wavelengths.
        factor: f64,
        /// Wavelengths above trained context / this are stretched whole.
        low_freq_factor: f64,
        /// Wavelengths below trained context / this are kept.
        high_freq_factor: f64,
        /// Trained context in tokens.
        original_max_positions: f64,
    },
    /// `YaRN` (arXiv 2309.00071).
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Trained context in tokens.
        original_max_positions: f64,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is stretched whole.
        beta_slow: f64,
        /// Factor on rotated queries and keys.
        attention_factor: f64,
        /// True if the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// Factors found by search (arXiv 2402.13753), one per wavelength: other ones past the trained context.
    LongRope {
        /// Factors up to the trained context.
        short: Vec<f64>,
        /// Factors past it.
        long: Vec<f64>,
        /// Trained context in tokens.
        original_max_positions: f64,
        /// Factor on rotated queries and keys.
        attention_factor: f64,
    },
}

/// Key of the part of each head that is rotated.
const PART: &str = "partial_rotary_factor";

impl Rope {
    /// Describes the rotation of the first `dims` dimensions of each head, without scaling.
    pub fn plain(dims: usize, theta: f64) -> Self {
        Self { dims, theta, traditional: false, reversed: false, scaling: RopeScaling::Default }
    }

    /// Reads `rope_scaling` and `rope_parameters` as transformers 5 does: the former counts where it says anything, the
    /// latter otherwise; the base stands in the same object, or else at the top as `rope_theta`, or is the architecture's
    /// default.
    pub fn from_config(config: &ModelConfig) -> Result<Self> {
        let group = group(config)?;
        config.only(&format!("{group}.partial_rotary_factor"), &1.0.into())?;
        config.only("partial_rotary_factor", &1.0.into())?;
        Self::read(config, group, head_dim(config)?)
    }

    /// Reads a rotation of the first dimensions of each head: the part that `partial_rotary_factor` says, or else `usual`.
    pub fn partial(config: &ModelConfig, usual: f64) -> Result<Self> {
        let group = group(config)?;
        let key = format!("{group}.partial_rotary_factor");
        let share = match config.positive(&key)? {
            Some(share) => share,
            None => config.positive("partial_rotary_factor")?.unwrap_or(usual),
        };
        Self::read(config, group, rotated_dims(config, PART, share)?)
    }

    fn read(config: &ModelConfig, group: &str, dims: usize) -> Result<Self> {
        for kind in ["full_attention", "sliding_attention"] {
            let key = format!("{group}.{kind}");
            if config.get(&key).is_some() {
                return Err(config.error(&key, "RoPE parameters that differ by layer type are not supported"));
            }
        }
        let theta = base(config, group, "rope_theta")?;
        let scaling = RopeScaling::from_config(config, group)?;
        Ok(Self { scaling, ..Self::plain(dims, theta) })
    }

    /// Reads the rotations of layers with full attention and of those with a sliding window, as transformers does for
    /// `gemma3_text`: base and scaling stand in an object for each in `rope_parameters`, or the bases at the top as
    /// `rope_theta` and `sliding_theta`, with one `partial_rotary_factor`; a `rope_scaling` is that of full attention.
    pub fn by_layer_type(config: &ModelConfig, sliding_theta: &str) -> Result<[Self; 2]> {
        let read = |group: &str, inner: &str, key: &str| -> Result<Self> {
            let is_by_type = config.get("rope_parameters").is_some();
            let part = if is_by_type { &*format!("{inner}.{PART}") } else { PART };
            let share = config.positive(part)?.unwrap_or(1.0);
            let (theta, dims) = (base(config, inner, key)?, rotated_dims(config, PART, share)?);
            Ok(Self { scaling: RopeScaling::from_config(config, group)?, ..Self::plain(dims, theta) })
        };
        let (full, sliding) = ("rope_parameters.full_attention", "rope_parameters.sliding_attention");
        let scaling = if group(config)? == "rope_scaling" { "rope_scaling" } else { full };
        Ok([read(scaling, full, "rope_theta")?, read(sliding, sliding, sliding_theta)?])
    }

    /// Rotates a `share` of each head, which `key` says.
    pub(crate) fn with_share(self, config: &ModelConfig, key: &str, share: f64) -> Result<Self> {
        let dims = rotated_dims(config, key, share)?;
        Ok(Self { dims, ..self })
    }

    /// Returns the keys that mlx-lm reads of the rotation of full attention, where there are two.
    pub fn written_by_layer_type(&self, config: &ModelConfig) -> Vec<(&'static str, Value)> {
        let outer = config.get("rope_scaling").or_else(|| config.get("rope_parameters.full_attention"));
        let scaling = outer.filter(|_| self.scaling != RopeScaling::Default).cloned();
        let scaling = scaling.map(|scaling| ("rope_scaling", scaling));
        [("rope_theta", self.theta.into())].into_iter().chain(scaling).collect()
    }

    /// Returns the key of the object that the scaling is read from: `rope_scaling` where it says anything.
    pub fn group(config: &ModelConfig) -> Result<&'static str> {
        group(config)
    }

    /// Returns the object of base and scaling that the class of an architecture reads, which looks nowhere else.
    pub fn parameters(&self, config: &ModelConfig) -> Value {
        let group = group(config).ok().and_then(|group| config.get(group)?.as_object());
        let mut parameters = group.cloned().unwrap_or_default();
        parameters.insert("rope_theta".to_owned(), self.theta.into());
        parameters.into()
    }

    /// Returns the rotated part of each head.
    pub fn share(&self, config: &ModelConfig) -> Result<f64> {
        Ok(self.dims as f64 / head_dim(config)? as f64)
    }

    /// The keys that mlx-lm reads: base and scaling at the top of the config, the kind once. Where `rope_parameters` says
    /// something else, it is written anew, so that the output has one meaning.
    pub fn written(&self, config: &ModelConfig) -> Vec<(&'static str, Value)> {
        let mut keys = vec![("rope_theta", self.theta.into())];
        let parameters = group(config).ok().and_then(|group| config.get(group)?.as_object());
        let Some(mut parameters) = parameters.cloned() else { return keys };
        if parameters.contains_key("rope_type") {
            parameters.shift_remove("type");
        }
        if let Some(original) = self.scaling.original_max_positions() {
            let key = "original_max_position_embeddings";
            if parameters.get(key).and_then(Value::as_f64) != Some(original) {
                let whole = (original.fract() == 0.0).then_some(original as u64);
                parameters.insert(key.to_owned(), whole.map_or(original.into(), Value::from));
            }
        }
        if self.scaling != RopeScaling::Default {
            keys.push(("rope_scaling", parameters.clone().into()));
        }
        if self.contradicts(config, &parameters) {
            parameters.insert("rope_theta".to_owned(), self.theta.into());
            keys.push(("rope_parameters", parameters.into()));
        }
        keys
    }

    /// True where the config has `rope_parameters` that say something else than base and `parameters`.
    #[allow(clippy::float_cmp, reason = "a base is copied, not computed")]
    fn contradicts(&self, config: &ModelConfig, parameters: &Map<String, Value>) -> bool {
        let Some(Value::Object(other)) = config.get("rope_parameters") else { return false };
        let plain = |parameters: &Map<String, Value>| {
            let mut parameters = parameters.clone();
            let theta = parameters.shift_remove("rope_theta");
            (parameters, theta.and_then(|theta| theta.as_f64()))
        };
        let (other, theta) = plain(other);
        !json::equal(&plain(parameters).0.into(), &other.into())
            || theta.is_some_and(|theta| theta != self.theta)
    }

    /// True if the object `group` of the config means this rotation, in any spelling; without a base it means this one.
    #[allow(clippy::float_cmp, reason = "a base is copied, not computed")]
    fn is_that_of(&self, config: &ModelConfig, group: &str) -> bool {
        let has_base = |theta: Option<f64>| theta.is_none_or(|theta| theta == self.theta);
        config.positive(&format!("{group}.rope_theta")).is_ok_and(has_base)
            && RopeScaling::from_config(config, group).is_ok_and(|scaling| scaling == self.scaling)
    }

    /// Notes for the user: keys that contradict each other, and a scaling that mlx-lm computes in another way than
    /// transformers.
    pub fn notes(&self, config: &ModelConfig) -> Vec<String> {
        let mut notes = Vec::new();
        if let Ok("rope_scaling") = group(config)
            && matches!(config.get("rope_parameters"), Some(Value::Object(_)))
            && !self.is_that_of(config, "rope_parameters")
        {
            notes.push(format!(
                "config.json has rope_scaling and, different, rope_parameters: rope_scaling is taken with base {}, as transformers does",
                self.theta
            ));
        }
        notes.extend(self.differs_from_mlx_lm(config));
        notes
    }

    /// Wavelength / 2 pi of each pair of dimensions, length `dims` / 2 (what MLX's `rope` calls `freqs`), or `None`
    /// where base and scale say it all. `sequence` is the length so far, which only dynamic scaling looks at.
    pub fn freqs(&self, sequence: usize) -> Option<Vec<f32>> {
        let dims = self.dims;
        let base = |theta: f64| (0..dims / 2).map(move |i| theta.powf((2 * i) as f64 / dims as f64));
        let freqs: Vec<f64> = match &self.scaling {
            RopeScaling::LongRope { short, long, original_max_positions, .. } => {
                let factors = if sequence as f64 > *original_max_positions { long } else { short };
                base(self.theta).zip(factors).map(|(freq, factor)| freq * factor).collect()
            }
            RopeScaling::Default | RopeScaling::Linear { .. } if self.reversed => base(self.theta).collect(),
            RopeScaling::Default | RopeScaling::Linear { .. } => return None,
            &RopeScaling::Dynamic { factor, max_positions } => {
                let length = (sequence as f64).max(max_positions);
                let growth = factor * length / max_positions - (factor - 1.0);
                base(self.theta * growth.powf(dims as f64 / (dims as f64 - 2.0))).collect()
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                base(self.theta)
                    .map(|f| llama3(f, factor, low_freq_factor, high_freq_factor, original_max_positions))
                    .collect()
            }
            &RopeScaling::Yarn { factor, original_max_positions, beta_fast, beta_slow, truncate, .. } => {
                let (low, high) =
                    yarn_range(dims, self.theta, original_max_positions, beta_fast, beta_slow, truncate);
                base(self.theta)
                    .enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        1.0 / (ramp / (factor * f) + (1.0 - ramp) / f)
                    })
                    .collect()
            }
        };
        let sign = if self.reversed { -1.0 } else { 1.0 };
        Some(freqs.into_iter().map(|f| (sign * f) as f32).collect())
    }

    /// Returns the length of a text up to which frequencies do not depend on it; `None` where they never do.
    pub fn steady_positions(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { max_positions, .. } => Some(max_positions as usize),
            RopeScaling::LongRope { original_max_positions, .. } => Some(original_max_positions as usize),
            _ => None,
        }
    }

    /// Returns a note on a scaling that mlx-lm computes in another way than transformers.
    fn differs_from_mlx_lm(&self, config: &ModelConfig) -> Option<String> {
        let RopeScaling::Yarn { truncate, .. } = self.scaling else { return None };
        let is_set = |name: &str| {
            ["rope_parameters", "rope_scaling"]
                .iter()
                .any(|group| config.get(&format!("{group}.{name}")).is_some())
        };
        let same = truncate && !is_set("attention_factor") && is_set("original_max_position_embeddings");
        (!same).then(|| {
            "these yarn settings are applied as transformers does; mlx-lm reads them differently".to_owned()
        })
    }

    /// Returns the factor on positions.
    pub fn scale(&self) -> f32 {
        match self.scaling {
            RopeScaling::Linear { factor } => (1.0 / factor) as f32,
            _ => 1.0,
        }
    }

    /// Returns the factor on rotated queries and keys.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }
}

/// Returns the dimensions of a head of which a `share` is rotated.
fn rotated_dims(config: &ModelConfig, key: &str, share: f64) -> Result<usize> {
    let head_dim = head_dim(config)?;
    let dims = (head_dim as f64 * share) as usize;
    if dims == 0 || dims > head_dim || !dims.is_multiple_of(2) {
        let message = format!("{share} of {head_dim} dimensions is not an even number of them");
        return Err(config.error(key, message));
    }
    Ok(dims)
}

/// Returns the base in `group`, or else at the top as `key`, or else the architecture's default.
fn base(config: &ModelConfig, group: &str, key: &str) -> Result<f64> {
    let base = match config.positive(&format!("{group}.rope_theta"))? {
        Some(base) => Some(base),
        None => config.positive(key)?.or_else(|| config.default_of(key)),
    };
    base.ok_or_else(|| config.error(key, "missing"))
}

/// Returns the key of the object that the scaling is read from. Python takes an empty one for none.
fn group(config: &ModelConfig) -> Result<&'static str> {
    for group in ["rope_scaling", "rope_parameters"] {
        match config.get(group) {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Object(object)) if object.is_empty() => {}
            Some(Value::Object(_)) => return Ok(group),
            Some(other) => {
                let message = format!("expected an object, found {}", json::shown(other));
                return Err(config.error(group, message));
            }
        }
    }
    Ok("rope_parameters")
}

/// Types of models whose tokens have three positions (time, height, width), which are one in a text.
const THREE_POSITIONS: [&str; 6] =
    ["qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3_vl", "qwen3_vl_text"];

impl RopeScaling {
    /// Returns the trained context, where it is written beside the factor.
    fn original_max_positions(&self) -> Option<f64> {
        match *self {
            Self::Llama3 { original_max_positions, .. }
            | Self::Yarn { original_max_positions, .. }
            | Self::LongRope { original_max_positions, .. } => Some(original_max_positions),
            _ => None,
        }
    }

    fn from_config(config: &ModelConfig, group: &str) -> Result<Self> {
        let key = |name: &str| format!("{group}.{name}");
        let kind = match config.string(&key("rope_type"))? {
            Some(kind) => kind,
            None => config.string(&key("type"))?.unwrap_or("default"),
        };
        let required = |name: &str| {
            let missing = || config.error(&key(name), format!("missing, and `{kind}` needs it"));
            config.positive(&key(name))?.ok_or_else(missing)
        };
        let factor = || required("factor");
        let max_positions = config.size("max_position_embeddings")?;
        let original = || -> Result<f64> {
            let outside = config.positive("original_max_position_embeddings")?;
            let own = outside.or(config.positive(&key("original_max_position_embeddings"))?);
            own.or(max_positions.map(|n| n as f64)).ok_or_else(|| {
                config.error(
                    &key("original_max_position_embeddings"),
                    "missing, and no max_position_embeddings",
                )
            })
        };
        Ok(match kind {
            "default" => Self::Default,
            "mrope" if THREE_POSITIONS.contains(&config.model_type()) => Self::Default,
            "linear" => Self::Linear { factor: factor()? },
            "dynamic" => {
                let trained = max_positions.ok_or_else(|| {
                    config.error("max_position_embeddings", "missing, and dynamic RoPE scaling needs it")
                })?;
                Self::Dynamic { factor: factor()?, max_positions: trained as f64 }
            }
            "llama3" => Self::Llama3 {
                factor: factor()?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_positions: original()?,
            },
            "yarn" | TELECHAT3_YARN => {
                let factor = factor()?;
                Self::Yarn {
                    factor,
                    original_max_positions: original()?,
                    beta_fast: config.positive(&key("beta_fast"))?.unwrap_or(32.0),
                    beta_slow: config.positive(&key("beta_slow"))?.unwrap_or(1.0),
                    attention_factor: if kind == TELECHAT3_YARN {
                        0.07 * factor.max(1.0).ln() + 1.0
                    } else {
                        yarn_attention_factor(config, group, factor)?
                    },
                    truncate: config.boolean(&key("truncate"))?.unwrap_or(true),
                }
            }
            "longrope" | "su" => Self::longrope(config, group, original()?)?,
            other => {
                return Err(config.error(
                    &key("rope_type"),
                    format!(
                        "`{other}` is not supported, only default, linear, dynamic, llama3, yarn and longrope"
                    ),
                ));
            }
        })
    }
}

impl RopeScaling {
    /// Reads factors by wavelength, as transformers' `_compute_longrope_parameters`.
    fn longrope(config: &ModelConfig, group: &str, original: f64) -> Result<Self> {
        let key = |name: &str| format!("{group}.{name}");
        let factors = |name: &str| config.positives(&key(name), None);
        let extended = match config.positive(&key("factor"))? {
            Some(factor) => factor,
            None => config.size("max_position_embeddings")?.map_or(1.0, |most| most as f64 / original),
        };
        let usual = if extended <= 1.0 { 1.0 } else { (1.0 + extended.ln() / original.ln()).sqrt() };
        Ok(Self::LongRope {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original_max_positions: original,
            attention_factor: config.positive(&key("attention_factor"))?.unwrap_or(usual),
        })
    }
}

/// Reads the factor as transformers' `_compute_yarn_parameters`: given, or from mscale and `mscale_all_dim`, or 0.1
/// ln(factor) + 1.
fn yarn_attention_factor(config: &ModelConfig, group: &str, factor: f64) -> Result<f64> {
    if let Some(factor) = config.positive(&format!("{group}.attention_factor"))? {
        return Ok(factor);
    }
    let get = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let mscale = config.number(&format!("{group}.mscale"))?.filter(|&x| x != 0.0);
    let all_dim = config.number(&format!("{group}.mscale_all_dim"))?.filter(|&x| x != 0.0);
    Ok(match (mscale, all_dim) {
        (Some(mscale), Some(all_dim)) => get(mscale) / get(all_dim),
        _ => get(1.0),
    })
}

fn llama3(freq: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * PI * freq;
    if wavelength > original / low {
        freq * factor
    } else if wavelength < original / high {
        freq
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        freq / ((1.0 - smooth) / factor + smooth)
    }
}

fn yarn_range(dims: usize, theta: f64, original: f64, fast: f64, slow: f64, truncate: bool) -> (f64, f64) {
    let dims = dims as f64;
    let dim = |rotations: f64| dims * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (dim(fast), dim(slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
    if high <= low {
        high = low + 0.001;
    }
    (low, high)
}
