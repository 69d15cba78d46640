//! Which way of rounding is in force, and the error it leaves, whatever the mode of the candidate.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Result, search_error_into};
use crate::affine::FloatType;
use crate::candidate::{Mode, Quant};
use crate::nearest;

/// How weights become codes.
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
    /// Whether candidates are scored with searched scales and biases. GPTQ's own errors are not known before its Hessians;
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

/// What rounding does to a layer, codes aside: to score candidates.
#[derive(Debug, Clone, Copy)]
pub struct Rounder<'a> {
    /// Dtype of scales and biases.
    pub dtype: FloatType,
    /// By scale search where the mode is affine, else to nearest.
    pub searched: bool,
    /// E[x_j^2] of the layer's input, for scale search.
    pub importance: Option<&'a [f32]>,
}

impl Rounder<'_> {
    /// `Q(W) - W` of float32 weights in rows of `columns`, into as many values.
    pub fn error_into(self, weights: &[f32], columns: usize, quant: Quant, out: &mut [f32]) -> Result<()> {
        if self.searched && quant.mode == Mode::Affine {
            return search_error_into(weights, columns, quant, self.dtype, self.importance, out);
        }
        Ok(nearest::rounding_error_into(weights, columns, quant, self.dtype, out)?)
    }
}
