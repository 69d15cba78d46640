//! Figures over all predicted tokens.

use serde::{Deserialize, Serialize};

use super::scores::Scores;

/// Perplexity, and the comparison with a reference where there is one. Logarithms are natural. Standard errors take the
/// tokens for independent, as llama.cpp does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Tokens predicted.
    pub tokens: usize,
    /// exp of the mean of -log p.
    pub perplexity: f64,
    /// Standard error of the perplexity.
    pub perplexity_stderr: f64,
    /// Comparison with the reference.
    #[serde(flatten)]
    pub divergence: Option<Divergence>,
}

/// Distance of a model from the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Perplexity of the reference.
    pub reference_perplexity: f64,
    /// Standard error of the reference's perplexity.
    pub reference_perplexity_stderr: f64,
    /// ln(perplexity / reference perplexity).
    pub ln_perplexity_ratio: f64,
    /// Standard error of the logarithm of the ratio, from the differences token by token.
    pub ln_perplexity_ratio_stderr: f64,
    /// Correlation of -log p with the reference's, -1 to 1.
    pub nll_correlation: f64,
    /// Mean KL(reference || model) per token.
    pub kl_mean: f64,
    /// Standard error of the mean KL divergence.
    pub kl_stderr: f64,
    /// Median KL divergence.
    pub kl_median: f64,
    /// Greatest KL divergence.
    pub kl_max: f64,
    /// Least KL divergence.
    pub kl_min: f64,
    /// (percent, KL) of some percentiles, falling.
    pub kl_percentiles: Vec<(f64, f64)>,
    /// Mean change of the right token's probability.
    pub probability_change_mean: f64,
    /// Standard error of the mean change of the right token's probability.
    pub probability_change_stderr: f64,
    /// Root mean square change of the right token's probability.
    pub probability_change_rms: f64,
    /// Share of tokens whose likeliest token is the reference's, 0 to 1.
    pub same_top: f64,
    /// Standard error of the share.
    pub same_top_stderr: f64,
}

/// The percentiles that llama.cpp prints.
const PERCENTILES: [f64; 8] = [99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0];

impl Scores {
    /// Computes the figures, which need at least one token.
    pub fn summary(&self) -> Summary {
        let nll = Moments::of(self.tokens.iter().map(|token| token.nll));
        Summary {
            tokens: self.tokens.len(),
            perplexity: nll.mean.exp(),
            perplexity_stderr: nll.mean.exp() * nll.stderr,
            divergence: self.against.then(|| self.divergence(&nll)),
        }
    }

    /// Returns KL(reference || model) of every token, in order.
    pub fn divergences(&self) -> impl Iterator<Item = f64> {
        self.tokens.iter().map(|token| token.kl)
    }

    fn divergence(&self, nll: &Moments) -> Divergence {
        let tokens = &self.tokens;
        let reference = Moments::of(tokens.iter().map(|token| token.reference_nll));
        let difference = Moments::of(tokens.iter().map(|token| token.nll - token.reference_nll));
        let product = Moments::of(
            tokens.iter().map(|token| (token.nll - nll.mean) * (token.reference_nll - reference.mean)),
        );
        let spread = nll.deviation * reference.deviation;
        let kl = Moments::of(tokens.iter().map(|token| token.kl));
        let mut sorted: Vec<f64> = tokens.iter().map(|token| token.kl).collect();
        sorted.sort_by(f64::total_cmp);
        let change = Moments::of(tokens.iter().map(|token| token.probability_change));
        let square = Moments::of(tokens.iter().map(|token| token.probability_change.powi(2)));
        let same = Moments::of(tokens.iter().map(|token| if token.same_top { 1.0 } else { 0.0 }));
        Divergence {
            reference_perplexity: reference.mean.exp(),
            reference_perplexity_stderr: reference.mean.exp() * reference.stderr,
            ln_perplexity_ratio: difference.mean,
            ln_perplexity_ratio_stderr: difference.stderr,
            nll_correlation: if spread > 0.0 { product.mean / spread } else { 1.0 },
            kl_mean: kl.mean,
            kl_stderr: kl.stderr,
            kl_median: percentile(&sorted, 50.0),
            kl_max: sorted.last().copied().unwrap_or(0.0),
            kl_min: sorted.first().copied().unwrap_or(0.0),
            kl_percentiles: PERCENTILES.iter().map(|&p| (p, percentile(&sorted, p))).collect(),
            probability_change_mean: change.mean,
            probability_change_stderr: change.stderr,
            probability_change_rms: square.mean.sqrt(),
            same_top: same.mean,
            same_top_stderr: same.stderr,
        }
    }
}

/// Interpolates linearly between the two ranks nearest to `percent` of the `sorted` values.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = percent / 100.0 * (sorted.len().saturating_sub(1)) as f64;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    let low = at(place.floor() as usize);
    low + (at(place.ceil() as usize) - low) * place.fract()
}

struct Moments {
    mean: f64,
    deviation: f64,
    stderr: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count().max(1) as f64;
        let mean = values.clone().sum::<f64>() / count;
        let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            deviation: (squares / count).sqrt(),
            stderr: (squares / (count - 1.0).max(1.0) / count).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_two_tokens() {
        let logits = |p: [f32; 2]| p.map(f32::ln).to_vec();
        let mut scores = Scores::default();
        scores.add(&logits([0.5, 0.5]), Some(&logits([0.5, 0.5])), &[0]).unwrap();
        scores.add(&logits([0.25, 0.75]), Some(&logits([0.5, 0.5])), &[0]).unwrap();
        let summary = scores.summary();
        assert_eq!(summary.tokens, 2);
        assert!((summary.perplexity - 8f64.sqrt()).abs() < 1e-6, "{summary:?}");
        let divergence = summary.divergence.unwrap();
        assert!((divergence.reference_perplexity - 2.0).abs() < 1e-6);
        assert!((divergence.ln_perplexity_ratio - 2f64.sqrt().ln()).abs() < 1e-6);
        let kl = 0.5 * (2f64.ln() + (2.0f64 / 3.0).ln());
        assert!((divergence.kl_mean - kl / 2.0).abs() < 1e-6 && (divergence.kl_max - kl).abs() < 1e-6);
        assert!((divergence.kl_median - kl / 2.0).abs() < 1e-6);
        assert!((divergence.probability_change_mean + 0.125).abs() < 1e-6);
        assert!((divergence.probability_change_rms - 0.25 / 2f64.sqrt()).abs() < 1e-6);
        assert!((divergence.same_top - 0.5).abs() < 1e-9);
    }

    #[test]
    fn correlation_lies_between_minus_one_and_one() {
        let logits = |p: [f32; 2]| p.map(f32::ln).to_vec();
        let correlation = |second: [f32; 2]| {
            let mut scores = Scores::default();
            scores.add(&logits([0.5, 0.5]), Some(&logits([0.5, 0.5])), &[0]).unwrap();
            scores.add(&logits(second), Some(&logits([0.25, 0.75])), &[0]).unwrap();
            scores.summary().divergence.unwrap().nll_correlation
        };
        assert!((correlation([0.3, 0.7]) - 1.0).abs() < 1e-6);
        assert!((correlation([0.7, 0.3]) + 1.0).abs() < 1e-6);
    }

    #[test]
    fn percentiles_between_ranks() {
        let sorted: Vec<f64> = (0..=10).map(f64::from).collect();
        assert!((percentile(&sorted, 50.0) - 5.0).abs() < 1e-9);
        assert!((percentile(&sorted, 95.0) - 9.5).abs() < 1e-9);
        assert!(percentile(&[], 50.0).abs() < 1e-9);
    }

    #[test]
    fn without_a_reference_there_is_only_the_perplexity() {
        let mut scores = Scores::default();
        scores.add(&[0.0; 4], None, &[3]).unwrap();
        let json = serde_json::to_value(scores.summary()).unwrap();
        assert!((json["perplexity"].as_f64().unwrap() - 4.0).abs() < 1e-6);
        assert!(json.get("kl_mean").is_none(), "{json}");
    }
}
