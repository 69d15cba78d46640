//! Scores of a sensitivity table: predicted divergence of each candidate of each layer.

use serde::{Deserialize, Serialize};

use super::table::{MOST_SKIPPED, TRIED};
use crate::numerics::quant::Quant;
use crate::numerics::statistics::mean_and_stderr;

/// Method of measuring sensitivities. The formulas are with the code, in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Diagonal of the Fisher information.
    FisherDiagonal,
    /// mlx-lm's `dynamic_quant`: first order at the model with every layer rounded like this.
    Alignment {
        /// Quantization of the layers.
        at: Quant,
    },
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FisherDiagonal => f.pad("fisher-diagonal"),
            Self::Alignment { at } => f.pad(&format!("alignment at {at}")),
        }
    }
}

/// A candidate's predicted KL divergence per token, in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The candidate.
    #[serde(flatten)]
    pub quant: Quant,
    /// Predicted KL divergence per token.
    pub kl: f64,
    /// Standard error over the text.
    pub stderr: f64,
}

impl Score {
    /// Averages the estimates of equal `parts` of the text.
    pub fn new(quant: Quant, parts: &[f64]) -> Self {
        let (kl, stderr) = mean_and_stderr(parts);
        Self { quant, kl, stderr }
    }
}

/// The candidates of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSensitivity {
    /// Path, such as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Scores, per candidate.
    pub scores: Vec<Score>,
}

impl LayerSensitivity {
    /// True if there can be a matrix of this size: sizes of a damaged table must not overflow where they are added up.
    pub fn is_possible(&self) -> bool {
        const MOST_WEIGHTS: usize = 1 << 48;
        self.rows.checked_mul(self.columns).is_some_and(|weights| weights <= MOST_WEIGHTS)
    }
}

/// Returns the number of parts of the rows, in a matrix of so many weights, of which every candidate is tried on one.
pub fn scored_every(weights: usize) -> usize {
    (weights / TRIED).clamp(1, MOST_SKIPPED)
}
