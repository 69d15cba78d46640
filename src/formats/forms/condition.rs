//! Conditions on the values that layers of other tools are decoded with; headers do not show them.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::formats::stored::Stored;
use crate::words::count;

/// Elements that are read at a time.
const STEP: usize = 1 << 20;

/// Largest E8M0 byte (2^125) whose product with 6, the largest E2M1 code, is a finite float32.
const LARGEST_EXPONENT: u8 = 252;

/// Condition on the values of a tensor.
#[derive(Debug)]
pub struct Condition {
    tensor: Stored,
    kind: Kind,
}

/// Reader of the numbers that the codes of a block are multiplied with and shifted by.
pub(crate) type ScalesOfBlock = Box<dyn Fn(&[u8]) -> [f32; 2] + Send + Sync>;

enum Kind {
    /// Finite, and not all zero.
    Scales,
    /// E4M3 without NaN.
    Codes,
    /// E8M0 scales of E2M1 codes: not NaN, and no product is infinite.
    Exponents,
    /// Blocks of so many bytes, whose scales are finite, and not all zero.
    Blocks(usize, ScalesOfBlock),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Scales => "Scales",
            Self::Codes => "Codes",
            Self::Exponents => "Exponents",
            Self::Blocks(..) => "Blocks",
        })
    }
}

impl Condition {
    /// Scales must be finite, and not all of them zero.
    pub(crate) fn scales(tensor: &Stored) -> Self {
        Self { tensor: tensor.clone(), kind: Kind::Scales }
    }

    /// Sizes and groups must not be zero throughout, which they are where values were not fetched.
    pub(crate) fn not_zero(tensor: &Stored) -> Self {
        Self::scales(tensor)
    }

    /// Codes of E4M3 must not be NaN, which MLX would take for a number.
    pub(crate) fn codes(tensor: &Stored) -> Self {
        Self { tensor: tensor.clone(), kind: Kind::Codes }
    }

    /// Exponents of mxfp4's blocks must not be NaN, nor so large that codes become infinite.
    pub(crate) fn exponents(tensor: &Stored) -> Self {
        Self { tensor: tensor.clone(), kind: Kind::Exponents }
    }

    /// Scales of blocks of `bytes` bytes must be finite, and not all of them zero.
    pub(crate) fn blocks(tensor: &Stored, bytes: usize, scales: ScalesOfBlock) -> Self {
        Self { tensor: tensor.clone(), kind: Kind::Blocks(bytes, scales) }
    }

    /// Fails where the values do not meet the condition.
    pub fn verify(&self) -> Result<()> {
        let length = self.tensor.len();
        let (mut wrong, mut is_zero) = (0, true);
        let step = if let Kind::Blocks(bytes, _) = self.kind { STEP * bytes } else { STEP };
        for start in (0..length).step_by(step) {
            crate::interrupt::check()?;
            let range = start..(start + step).min(length);
            if let Kind::Blocks(bytes, scales) = &self.kind {
                let stored = self.tensor.bytes(range.clone());
                let of_blocks = stored.par_chunks_exact(*bytes).map(|block| {
                    let [scale, shift] = scales(block);
                    [
                        usize::from(!scale.is_finite() || !shift.is_finite()),
                        usize::from(scale != 0.0 || shift != 0.0),
                    ]
                });
                let [bad, not_zero] = of_blocks.reduce(|| [0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
                wrong += bad;
                is_zero &= not_zero == 0;
                self.tensor.release(range);
                continue;
            }
            if let Kind::Scales = self.kind {
                let values = self.tensor.values(range);
                wrong += values.iter().filter(|value| !value.is_finite()).count();
                is_zero &= values.iter().all(|value| *value == 0.0);
                continue;
            }
            let is_wrong = |byte: &&u8| match self.kind {
                Kind::Exponents => **byte > LARGEST_EXPONENT,
                _ => **byte & 0x7f == 0x7f,
            };
            wrong += self.tensor.bytes(range.clone()).iter().filter(is_wrong).count();
            self.tensor.release(range);
        }
        match wrong {
            0 => {}
            more if matches!(self.kind, Kind::Exponents) => {
                let message =
                    format!("has {} of NaN, or so large that values are infinite", count(more, "exponent"));
                return Err(damaged(&self.tensor, message));
            }
            1 => return Err(damaged(&self.tensor, "has a value that is NaN or infinite")),
            more => return Err(damaged(&self.tensor, format!("has {more} values that are NaN or infinite"))),
        }
        if matches!(self.kind, Kind::Scales | Kind::Blocks(..)) && is_zero {
            return Err(damaged(&self.tensor, "is zero throughout"));
        }
        Ok(())
    }
}

/// Returns the error of a layer whose scales cannot be used.
pub(crate) fn damaged(tensor: &Stored, message: impl Into<String>) -> Error {
    tensor.error(message).hint("the checkpoint is damaged: take it again, or start from the float checkpoint")
}
