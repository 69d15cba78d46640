//! Kullback-Leibler divergence between rows of logits.

use rayon::prelude::*;

use super::lanes;

/// Returns KL(reference || model) of each row of logits [rows, vocabulary], in nats.
pub fn kl_divergences(logits: &[f32], reference: &[f32], vocabulary: usize) -> Vec<f64> {
    let rows = logits.par_chunks(vocabulary).zip(reference.par_chunks(vocabulary));
    rows.map(|(row, reference)| Row::new(reference).kl_divergence(&Row::new(row))).collect()
}

/// One position's logits with what normalises them.
pub(crate) struct Row<'a> {
    logits: &'a [f32],
    pub(crate) largest: f32,
    pub(crate) top: usize,
    /// log sum exp(logit - largest).
    pub(crate) log_sum: f64,
}

impl<'a> Row<'a> {
    pub(crate) fn new(logits: &'a [f32]) -> Self {
        let largest = lanes::largest(logits);
        let top = logits.iter().position(|&x| x >= largest).unwrap_or_default();
        Self { logits, largest, top, log_sum: lanes::sum_of_exponentials(logits, largest).ln() }
    }

    pub(crate) fn log_probability(&self, token: u32) -> f64 {
        let logit = self.logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        f64::from(logit - self.largest) - self.log_sum
    }

    /// Returns sum_i p_i (log p_i - log q_i), p this row and q the `other`.
    pub(crate) fn kl_divergence(&self, other: &Row<'_>) -> f64 {
        let shift = (self.log_sum - other.log_sum) as f32;
        let total = lanes::sum_of_divergences(self.logits, self.largest, other.logits, other.largest, shift);
        // Rounding can leave a tiny negative number where both are the same.
        (total / self.log_sum.exp()).max(0.0)
    }
}
