//! One MLX quantization setting: bits, group size and mode.
//!
//! The exact stored size of every setting is computed here and nowhere else, so that an allocation, a report
//! and a written file agree to the byte. Notation, on the command line and in tables: `bits`, `bits:group_size`
//! or `bits:group_size:mode` (`4`, `4:64`, `4:32:mxfp4`), a mode alone (`nvfp4`), or `keep`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Bit widths that MLX's affine mode accepts.
pub const AFFINE_BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];
/// Group sizes that MLX's affine mode accepts.
pub const AFFINE_GROUP_SIZES: [u32; 3] = [32, 64, 128];

/// True if some affine group size divides rows of `columns`: the weights of such layers are what bits per weight are counted
/// over, float ones included.
pub fn divisible(columns: usize) -> bool {
    AFFINE_GROUP_SIZES.iter().any(|&group| columns.is_multiple_of(group as usize))
}

/// True if some affine group size divides rows of `columns`, but none of `quants` does: layers with such rows stay float, and
/// bits per weight count them.
pub(crate) fn is_unfit(columns: usize, quants: impl IntoIterator<Item = Quant>) -> bool {
    divisible(columns) && quants.into_iter().all(|quant| quant.packed_columns(columns).is_none())
}

/// The group size where none is written, as in MLX.
pub const DEFAULT_GROUP_SIZE: u32 = 64;

/// MLX's quantization modes, spelled as in `config.json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `scale * code + bias`, scale and bias in the weights' float type.
    #[default]
    Affine,
    /// OCP microscaling FP4: E2M1 codes, one E8M0 scale for 32.
    Mxfp4,
    /// OCP microscaling FP8: E4M3 codes, one E8M0 scale for 32.
    Mxfp8,
    /// NVIDIA FP4: E2M1 codes, one E4M3 scale for 16.
    Nvfp4,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// Returns the name that MLX uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// Returns the only bits and group size of a floating-point mode; MLX's default of 4 and 64 for affine.
    pub const fn default_quant(self) -> Quant {
        let (bits, group_size) = match self {
            Self::Affine => (4, DEFAULT_GROUP_SIZE),
            Self::Mxfp4 => (4, 32),
            Self::Mxfp8 => (8, 32),
            Self::Nvfp4 => (4, 16),
        };
        Quant { bits, group_size, mode: self }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            Error::usage(format!("unknown quantization mode `{text}`"))
                .hint("MLX knows affine, mxfp4, mxfp8 and nvfp4")
        })
    }
}

/// One quantization setting of MLX: an entry of the bit map. A missing `mode` reads as affine, as in MLX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quant {
    /// Bits of one code.
    pub bits: u32,
    /// Neighbours in a row that share a scale.
    pub group_size: u32,
    /// Rule by which a code becomes a number.
    #[serde(default)]
    pub mode: Mode,
}

impl Quant {
    /// Makes an affine setting of `bits` and `group_size`; not validated.
    pub const fn affine(bits: u32, group_size: u32) -> Self {
        Self { bits, group_size, mode: Mode::Affine }
    }

    /// Combines bits, group size and mode as the user names them. `bits` may be any of the notations that contain them.
    pub fn uniform(bits: Option<&str>, group_size: Option<u32>, mode: Option<Mode>) -> Result<Self> {
        let clash = |other: String, hint: String| {
            let bits = bits.unwrap_or_default();
            Error::usage(format!("setting `bits` {bits} and {other} contradict each other")).hint(hint)
        };
        let mut quant = match (bits, mode) {
            (Some(bits), _) => match bits.parse::<u32>() {
                Ok(bits) => Self { bits, ..mode.unwrap_or_default().default_quant() },
                Err(_) => bits.parse::<Self>().map_err(|error| error.at_setting("setting `bits`"))?,
            },
            (None, Some(mode)) if mode != Mode::Affine => mode.default_quant(),
            (None, _) => {
                return Err(Error::usage("mode affine needs setting `bits`")
                    .hint("add setting `bits` 4, for example"));
            }
        };
        let notation = bits.unwrap_or_default();
        if let Some(mode) = mode.filter(|&mode| mode != quant.mode) {
            let hint = format!("leave one of them out: setting `bits` {notation} is in mode {}", quant.mode);
            return Err(clash(format!("setting `mode` {mode}"), hint));
        }
        if let Some(group_size) = group_size {
            if notation.contains(':') && group_size != quant.group_size {
                let other = Self { group_size, ..quant };
                let hint = format!("say it once: setting `bits` {quant}, or setting `bits` {other}");
                return Err(clash(format!("setting `group_size` {group_size}"), hint));
            }
            quant.group_size = group_size;
        }
        quant.validate()?;
        Ok(quant)
    }

    /// Checks that MLX 0.32 accepts this setting.
    pub fn validate(self) -> Result<()> {
        if self.mode != Mode::Affine {
            let only = self.mode.default_quant();
            return if self == only {
                Ok(())
            } else {
                Err(Error::usage(format!(
                    "{} bits in groups of {} do not exist in mode {}",
                    self.bits, self.group_size, self.mode
                ))
                .hint(format!("{} is {} bits in groups of {}", self.mode, only.bits, only.group_size)))
            };
        }
        if !AFFINE_BITS.contains(&self.bits) {
            return Err(Error::usage(format!("MLX has no affine quantization to {} bits", self.bits))
                .hint("choose 2, 3, 4, 5, 6 or 8 bits"));
        }
        if !AFFINE_GROUP_SIZES.contains(&self.group_size) {
            return Err(Error::usage(format!("MLX has no affine group size {}", self.group_size))
                .hint("choose a group size of 32, 64 or 128"));
        }
        Ok(())
    }

    /// Returns the groups in a row of `columns` weights; `None` where the group size does not divide the row.
    pub fn groups(self, columns: usize) -> Option<usize> {
        let group_size = self.group_size as usize;
        (group_size != 0 && columns.is_multiple_of(group_size)).then(|| columns / group_size)
    }

    /// Returns the `u32` words of codes in a row of `columns` weights (`columns * bits / 32`); `None` where the group size
    /// does not divide the row, or the row does not fill whole words.
    pub fn packed_columns(self, columns: usize) -> Option<usize> {
        self.groups(columns)?;
        let bits = columns.checked_mul(self.bits as usize)?;
        bits.is_multiple_of(32).then_some(bits / 32)
    }

    /// Returns the stored bytes of a `rows x columns` weight: codes, scales and biases. `scale_bytes` is the width of the
    /// float type that affine scales and biases take (2 or 4); the floating-point modes have one-byte scales
    /// and no biases. `None` where the group size does not divide the row, or on overflow.
    pub fn bytes(self, rows: usize, columns: usize, scale_bytes: usize) -> Option<u64> {
        let codes = self.packed_columns(columns)?.checked_mul(4)?;
        let per_group = if self.mode == Mode::Affine { scale_bytes.checked_mul(2)? } else { 1 };
        let row = codes.checked_add(self.groups(columns)?.checked_mul(per_group)?)?;
        u64::try_from(row).ok()?.checked_mul(u64::try_from(rows).ok()?)
    }

    /// Returns the stored bits per weight, scales and biases included: 4.5 for `4:64` with 16-bit scales.
    /// `None` where the group size does not divide the row.
    pub fn bpw(self, columns: usize, scale_bytes: usize) -> Option<f64> {
        bits_per_weight(self.bytes(1, columns, scale_bytes)?, columns)
    }
}

pub(crate) fn bits_per_weight(row_bytes: u64, columns: usize) -> Option<f64> {
    (columns > 0).then(|| 8.0 * row_bytes as f64 / columns as f64)
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Affine => f.pad(&format!("{}:{}", self.bits, self.group_size)),
            mode => f.pad(&format!("{}:{}:{mode}", self.bits, self.group_size)),
        }
    }
}

impl FromStr for Quant {
    type Err = Error;

    /// Reads `bits`, `bits:group_size`, `bits:group_size:mode` or the name of a floating-point mode.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::usage(format!("`{text}` is not a quantization setting"))
                .hint("write bits, bits:group_size or bits:group_size:mode, such as 4, 4:64 or 4:32:mxfp4")
        };
        let mut parts = text.split(':').map(str::trim);
        let first = parts.next().ok_or_else(bad)?;
        let quant = match (first.parse::<u32>(), parts.next(), parts.next(), parts.next()) {
            (Ok(bits), None, None, None) => Self::affine(bits, DEFAULT_GROUP_SIZE),
            (Ok(bits), Some(group_size), mode, None) => Self {
                bits,
                group_size: group_size.parse().map_err(|_| bad())?,
                mode: mode.map_or(Ok(Mode::Affine), str::parse)?,
            },
            (Err(_), None, None, None) => match first.parse::<Mode>() {
                Ok(mode) if mode != Mode::Affine => mode.default_quant(),
                _ => return Err(bad()),
            },
            _ => return Err(bad()),
        };
        quant.validate()?;
        Ok(quant)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        let q = Quant::affine(4, 64);
        assert_eq!(q.packed_columns(128), Some(16));
        assert_eq!(q.packed_columns(172), None);
        assert_eq!(q.bytes(10, 128, 2), Some(10 * (64 + 2 * 4)));
        assert_eq!(q.bpw(128, 2), Some(4.5));
        assert_eq!(q.bpw(128, 4), Some(5.0));
        assert_eq!(Quant::affine(3, 32).packed_columns(32), Some(3));
        assert_eq!(Mode::Mxfp4.default_quant().bpw(64, 2), Some(4.25));
        assert_eq!(Mode::Mxfp8.default_quant().bpw(64, 2), Some(8.25));
        assert_eq!(Mode::Nvfp4.default_quant().bpw(64, 2), Some(4.5));
        assert_eq!(Mode::Nvfp4.default_quant().packed_columns(16), Some(2));
        assert_eq!(q.bytes(usize::MAX, 1 << 40, 2), None);
        assert_eq!(q.bpw(0, 2), None);
    }

    #[test]
    fn notation_round_trips() {
        for mode in [Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4] {
            assert_eq!(mode.name().parse::<Quant>().unwrap(), mode.default_quant());
            assert_eq!(mode.default_quant().to_string().parse::<Quant>().unwrap(), mode.default_quant());
        }
        assert_eq!("4".parse::<Quant>().unwrap(), Quant::affine(4, 64));
        assert_eq!("4:128:affine".parse::<Quant>().unwrap(), Quant::affine(4, 128));
    }

    #[test]
    fn refused() {
        for text in ["", "7", "4:16", "x", "4:64:mxfp4", "4:64:affine:1", "4:", "affine", "-4", "4:64:int"] {
            assert!(text.parse::<Quant>().is_err(), "{text}");
        }
    }

    #[test]
    fn three_flags_are_one_setting() {
        let affine = Mode::Affine;
        for (bits, group_size, mode, expected) in [
            (Some("4"), None, None, "4:64"),
            (Some("4:32"), None, Some(affine), "4:32"),
            (Some("3"), Some(128), None, "3:128"),
            (Some("4:32"), Some(32), None, "4:32"),
            (Some("4"), None, Some(Mode::Mxfp4), "4:32:mxfp4"),
            (Some("4"), Some(16), Some(Mode::Nvfp4), "4:16:nvfp4"),
            (Some("nvfp4"), None, None, "4:16:nvfp4"),
            (None, None, Some(Mode::Mxfp8), "8:32:mxfp8"),
            (None, Some(32), Some(Mode::Mxfp8), "8:32:mxfp8"),
        ] {
            let found = Quant::uniform(bits, group_size, mode).unwrap();
            assert_eq!(found, expected.parse().unwrap(), "{bits:?} {group_size:?} {mode:?}");
        }
        for (bits, group_size, mode, expected) in [
            (Some("8"), None, Some(Mode::Mxfp4), "8 bits in groups of 32 do not exist in mode mxfp4"),
            (
                Some("4:32"),
                None,
                Some(Mode::Mxfp4),
                "setting `bits` 4:32 and setting `mode` mxfp4 contradict each other",
            ),
            (
                Some("4:32"),
                Some(64),
                None,
                "setting `bits` 4:32 and setting `group_size` 64 contradict each other",
            ),
            (Some("nvfp4"), Some(64), None, "4 bits in groups of 64 do not exist in mode nvfp4"),
            (None, Some(64), Some(Mode::Nvfp4), "4 bits in groups of 64 do not exist in mode nvfp4"),
            (None, None, Some(affine), "mode affine needs setting `bits`"),
            (Some("7"), None, None, "7 bits"),
            (Some("4"), Some(48), None, "48"),
        ] {
            let message = Quant::uniform(bits, group_size, mode).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let hint = |bits, group_size, mode| {
            let error = Quant::uniform(Some(bits), group_size, mode).unwrap_err();
            error.hint_text().unwrap().to_owned()
        };
        let once = "say it once: setting `bits` 4:128, or setting `bits` 4:32";
        assert_eq!(hint("4:128", Some(32), None), once);
        assert!(hint("4:32", None, Some(Mode::Mxfp4)).ends_with("setting `bits` 4:32 is in mode affine"));
    }

    #[test]
    fn json() {
        let quant: Quant = serde_json::from_str(r#"{"group_size": 64, "bits": 4}"#).unwrap();
        assert_eq!(quant, Quant::affine(4, 64));
        assert_eq!(serde_json::to_string(&quant).unwrap(), r#"{"bits":4,"group_size":64,"mode":"affine"}"#);
    }
}
