//! Scores of predicted tokens, added up window by window.

use rayon::prelude::*;

use crate::numerics::divergence::Row;

/// Scores of the tokens predicted so far, in order.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    pub(crate) tokens: Vec<TokenScore>,
    pub(crate) against: bool,
}

/// Logits that are not finite, or that leave the right token no probability at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    /// Index of the row among the rows added in one call.
    pub row: usize,
    /// True if the row is the reference's.
    pub reference: bool,
}

/// Score of one predicted token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TokenScore {
    /// -log p of the right token.
    pub(crate) nll: f64,
    /// -log p of the right token in the reference.
    pub(crate) reference_nll: f64,
    /// KL(reference || model).
    pub(crate) kl: f64,
    /// Probability of the right token minus the reference's.
    pub(crate) probability_change: f64,
    pub(crate) same_top: bool,
}

impl Scores {
    /// Adds rows of logits [tokens, vocabulary] that predict `labels`, one per row, and the reference's for the same
    /// rows (logits or log-probabilities) where there is one.
    ///
    /// # Errors
    /// The first row with a figure that is not finite.
    pub fn add(
        &mut self,
        logits: &[f32],
        reference: Option<&[f32]>,
        labels: &[u32],
    ) -> Result<(), NotFinite> {
        let vocabulary = logits.len() / labels.len().max(1);
        self.against |= reference.is_some();
        let rows = logits.par_chunks(vocabulary.max(1)).zip(labels);
        let scored: Vec<TokenScore> = match reference {
            None => rows
                .map(|(row, &label)| TokenScore {
                    nll: -Row::new(row).log_probability(label),
                    ..TokenScore::default()
                })
                .collect(),
            Some(reference) => rows
                .zip(reference.par_chunks(vocabulary.max(1)))
                .map(|((row, &label), reference)| token_score(&Row::new(row), &Row::new(reference), label))
                .collect(),
        };
        if let Some(row) = scored.iter().position(|score| !score.is_finite()) {
            return Err(NotFinite { row, reference: !scored[row].reference_nll.is_finite() });
        }
        self.tokens.extend(scored);
        Ok(())
    }

    /// Returns the number of predicted tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if no token was predicted.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

impl TokenScore {
    fn is_finite(&self) -> bool {
        self.nll.is_finite() && self.reference_nll.is_finite() && self.kl.is_finite()
    }
}

fn token_score(row: &Row<'_>, reference: &Row<'_>, label: u32) -> TokenScore {
    let (log_p, reference_log_p) = (row.log_probability(label), reference.log_probability(label));
    TokenScore {
        nll: -log_p,
        reference_nll: -reference_log_p,
        kl: reference.kl_divergence(row),
        probability_change: log_p.exp() - reference_log_p.exp(),
        same_top: row.top == reference.top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::divergence::kl_divergences;

    #[test]
    fn divergence_of_known_distributions() {
        let logits = |p: [f32; 3]| p.map(f32::ln).to_vec();
        let (p, q) = (logits([0.5, 0.25, 0.25]), logits([0.25, 0.25, 0.5]));
        let expected = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert!((kl_divergences(&q, &p, 3)[0] - expected).abs() < 1e-6);
        let shifted: Vec<f32> = p.iter().map(|x| x + 7.0).collect();
        assert!(kl_divergences(&shifted, &p, 3)[0] < 1e-6, "a shift changes nothing");
    }

    #[test]
    fn what_is_not_finite_is_no_figure() {
        let good = [1.0, 2.0, 0.5, 0.5];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut scores = Scores::default();
            let row = [1.0, 2.0, bad, 0.0];
            let failed = |reference| Err(NotFinite { row: 1, reference });
            assert_eq!(scores.add(&row, None, &[0, 0]), failed(false), "{bad}");
            assert_eq!(scores.add(&row, Some(&good), &[0, 0]), failed(false), "{bad}");
            assert_eq!(scores.add(&good, Some(&row), &[0, 0]), failed(true), "{bad}");
            assert!(scores.is_empty());
            assert_eq!(scores.add(&good, Some(&good), &[0, 0]), Ok(()));
        }
    }

    #[test]
    fn scores_against_a_reference() {
        let logits = |p: [f32; 2]| p.map(f32::ln).to_vec();
        let mut scores = Scores::default();
        scores.add(&logits([0.8, 0.2]), Some(&logits([0.6, 0.4])), &[0]).unwrap();
        scores.add(&logits([0.3, 0.7]), Some(&logits([0.6, 0.4])), &[1]).unwrap();
        let first = scores.tokens[0];
        assert!((first.nll + 0.8f64.ln()).abs() < 1e-6 && (first.reference_nll + 0.6f64.ln()).abs() < 1e-6);
        assert!((first.probability_change - 0.2).abs() < 1e-6 && first.same_top);
        assert!(!scores.tokens[1].same_top && (scores.tokens[1].probability_change - 0.3).abs() < 1e-6);
    }
}
