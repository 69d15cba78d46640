//! Techniques of rounding, and the error that one leaves, whatever the mode of the candidate.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

use super::rounded::Result;
use super::search::search_error_into;
use crate::numerics::affine::FloatType;
use crate::numerics::nearest;
use crate::numerics::quant::{Mode, Quant};

/// Technique by which weights become codes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Technique {
    /// To nearest, as `mx.quantize`.
    #[default]
    Rtn,
    /// With searched scales and biases.
    Search,
    /// With error feedback over columns.
    Gptq,
}

impl Technique {
    /// True if candidates are scored with searched scales and biases. GPTQ's own errors are not known before its Hessians;
    /// scale search ranks layers and candidates as it does.
    pub fn is_searched(self) -> bool {
        self != Self::Rtn
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rtn => "rtn",
            Self::Search => "search",
            Self::Gptq => "gptq",
        })
    }
}

/// Rounding of a layer without codes, to score candidates.
#[derive(Debug, Clone, Copy)]
pub struct Rounder<'a> {
    /// Dtype of scales and biases.
    pub dtype: FloatType,
    /// By scale search where the mode is affine, else to nearest.
    pub searched: bool,
    /// Mean squares of the layer's input, for scale search.
    pub importance: Option<Importance<'a>>,
}

impl Rounder<'_> {
    /// Writes `Q(W) - W` of float32 weights in rows of `columns`, those from number `first` on, to as many values of `out`.
    pub fn error_into(
        self,
        first: usize,
        weights: &[f32],
        columns: usize,
        quant: Quant,
        out: &mut [f32],
    ) -> Result<()> {
        if !self.searched || quant.mode != Mode::Affine {
            return Ok(nearest::rounding_error_into(weights, columns, quant, self.dtype, out)?);
        }
        let rows = first..first + weights.len() / columns;
        for (rows, importance) in Importance::parts(self.importance, rows) {
            let part = (rows.start - first) * columns..(rows.end - first) * columns;
            let (weights, out) = (&weights[part.clone()], &mut out[part]);
            search_error_into(weights, columns, quant, self.dtype, importance, out)?;
        }
        Ok(())
    }
}

/// E[x_j^2] of what goes into a layer, or into each of the experts whose matrices lie one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Importance<'a> {
    values: &'a [f32],
    columns: usize,
    /// Rows of one matrix.
    rows: usize,
}

impl<'a> Importance<'a> {
    /// Takes the `values` of each matrix one after the other; `rows` counts those of all matrices. `None` where the numbers
    /// do not fit.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Option<Self> {
        let matrices = values.len() / columns.max(1);
        let fits = matrices > 0 && values.len() == matrices * columns && rows.is_multiple_of(matrices);
        fits.then(|| Self { values, columns, rows: rows / matrices })
    }

    /// Splits `rows` by matrix, each part with the importance of its matrix if it is known.
    pub fn parts(
        importance: Option<Self>,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, Option<&'a [f32]>)> {
        let mut rest = rows;
        std::iter::from_fn(move || {
            let Range { start, end } = rest;
            if start >= end {
                return None;
            }
            let Some(Self { values, columns, rows }) = importance else {
                rest.start = end;
                return Some((start..end, None));
            };
            let matrix = start / rows.max(1);
            rest.start = end.min((matrix + 1) * rows.max(1));
            Some((start..rest.start, values.get(matrix * columns..(matrix + 1) * columns)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_the_importance_of_their_own_matrix() {
        // Three matrices [4, 2].
        let values: Vec<f32> = (0..6u8).map(f32::from).collect();
        let importance = Importance::new(&values, 12, 2);
        let parts = |rows| Importance::parts(importance, rows).collect::<Vec<_>>();
        let of = |matrix: usize| Some(&values[2 * matrix..][..2]);
        assert_eq!(parts(2..9), [(2..4, of(0)), (4..8, of(1)), (8..9, of(2))]);
        assert_eq!(parts(4..8), [(4..8, of(1))]);
        assert!(parts(5..5).is_empty());
        assert_eq!(Importance::parts(None, 3..7).collect::<Vec<_>>(), [(3..7, None)]);
        for (values, rows, columns) in [(&values[..5], 12, 2), (&values[..], 10, 2), (&[], 12, 2)] {
            assert!(Importance::new(values, rows, columns).is_none());
        }
    }
}
