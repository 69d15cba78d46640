//! The sensitivity table: what each candidate of each layer is predicted to cost, measured once, solved for any target.

use serde::{Deserialize, Serialize};

use crate::candidate::Quant;

/// A candidate's predicted KL divergence per token, in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The candidate.
    pub quant: Quant,
    /// Predicted KL divergence per token.
    pub kl: f64,
    /// Its standard error over the text.
    pub stderr: f64,
}

impl Score {
    /// From the estimates of equal parts of the text.
    pub fn new(quant: Quant, parts: &[f64]) -> Self {
        let n = parts.len().max(1) as f64;
        let mean = parts.iter().sum::<f64>() / n;
        let variance = parts.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { quant, kl: mean, stderr: (variance / n).sqrt() }
    }
}

/// The candidates of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSensitivity {
    /// Its path, such as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// One a candidate.
    pub scores: Vec<Score>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_of_equal_parts() {
        let score = Score::new(Quant::affine(4, 64), &[1.0, 3.0]);
        assert!((score.kl - 2.0).abs() < 1e-12 && (score.stderr - 1.0).abs() < 1e-12);
        assert_eq!(Score::new(Quant::affine(4, 64), &[1.0]).stderr.to_bits(), 0f64.to_bits());
    }
}
