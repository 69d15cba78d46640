//! A candidate: what a layer may get, and the candidates that are tried unless told otherwise.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::numerics::quant::{AFFINE_BITS, AFFINE_GROUP_SIZES, Quant, bits_per_weight};

/// Quantization that one layer may get, or float. Serialized as its notation (`"4:64"`, `"keep"`), so that it can be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Candidate {
    /// Quantized to this setting.
    Quantized(Quant),
    /// Left in float.
    Keep,
}

impl Candidate {
    /// Returns the setting, or `None` for float.
    pub const fn quant(self) -> Option<Quant> {
        match self {
            Self::Quantized(quant) => Some(quant),
            Self::Keep => None,
        }
    }

    /// Returns the stored bytes of a `rows x columns` weight, as [`Quant::bytes`]; `float_bytes` is the width of the float
    /// type, which is also that of scales and biases.
    pub fn bytes(self, rows: usize, columns: usize, float_bytes: usize) -> Option<u64> {
        match self {
            Self::Quantized(quant) => quant.bytes(rows, columns, float_bytes),
            Self::Keep => u64::try_from(rows.checked_mul(columns)?.checked_mul(float_bytes)?).ok(),
        }
    }

    /// Returns the stored bits per weight, as [`Quant::bpw`].
    pub fn bpw(self, columns: usize, float_bytes: usize) -> Option<f64> {
        bits_per_weight(self.bytes(1, columns, float_bytes)?, columns)
    }

    /// Reads a list: parts joined by `+`, each either settings separated by commas (`4:64,8:32,keep`) or a
    /// product of bits and group sizes (`2,3,4 x 32,64`). Returns them sorted, each once; never empty.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for part in text.split('+') {
            match part.split_once(" x ") {
                Some((bits, group_sizes)) => {
                    for bits in bits.split(',').map(str::trim) {
                        for group_size in group_sizes.split(',').map(str::trim) {
                            all.push(Self::Quantized(format!("{bits}:{group_size}").parse()?));
                        }
                    }
                }
                None => {
                    for item in part.split(',') {
                        all.push(item.trim().parse()?);
                    }
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}

impl From<Quant> for Candidate {
    fn from(quant: Quant) -> Self {
        Self::Quantized(quant)
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantized(quant) => quant.fmt(f),
            Self::Keep => f.pad("keep"),
        }
    }
}

impl FromStr for Candidate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == "keep" { Ok(Self::Keep) } else { text.parse().map(Self::Quantized) }
    }
}

impl TryFrom<String> for Candidate {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

const fn default_candidates() -> [Candidate; 19] {
    let mut all = [Candidate::Keep; 19];
    let mut i = 0;
    while i < AFFINE_BITS.len() * AFFINE_GROUP_SIZES.len() {
        let bits = AFFINE_BITS[i / AFFINE_GROUP_SIZES.len()];
        let group_size = AFFINE_GROUP_SIZES[i % AFFINE_GROUP_SIZES.len()];
        all[i] = Candidate::Quantized(Quant::affine(bits, group_size));
        i += 1;
    }
    all
}

/// Candidates unless the user says otherwise: every affine setting, and float. Sorted.
pub const DEFAULT_CANDIDATES: [Candidate; 19] = default_candidates();

impl From<Candidate> for String {
    fn from(candidate: Candidate) -> Self {
        candidate.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn notation_round_trips() {
        for candidate in DEFAULT_CANDIDATES {
            assert_eq!(candidate.to_string().parse::<Candidate>().unwrap(), candidate);
            if let Some(quant) = candidate.quant() {
                quant.validate().unwrap();
            }
        }
        assert_eq!(Candidate::Keep.bpw(10, 2), Some(16.0));
    }

    #[test]
    fn refused_lists() {
        assert!(Candidate::parse_list("").is_err());
        assert!(Candidate::parse_list("2,3 x 16").is_err());
    }

    #[test]
    fn lists() {
        let all = Candidate::parse_list("2,3,4,5,6,8 x 32,64,128 + keep").unwrap();
        assert_eq!(all, DEFAULT_CANDIDATES);
        let some = Candidate::parse_list("keep, 8:32, 4, mxfp4, 4:64").unwrap();
        assert_eq!(
            some.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["4:32:mxfp4", "4:64", "8:32", "keep"]
        );
    }

    #[test]
    fn json_is_the_notation() {
        let quant = Quant::affine(4, 64);
        assert_eq!(serde_json::to_string(&Candidate::Keep).unwrap(), r#""keep""#);
        assert_eq!(serde_json::from_str::<Candidate>(r#""4:64""#).unwrap(), Candidate::Quantized(quant));
    }
}
