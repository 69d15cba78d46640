//! Log-probabilities of a chosen token and of its alternatives.

/// Natural logarithms of token probabilities. The probabilities are the softmax of the logits after biases and
/// penalties, before temperature and masks, as mlx-lm reports them.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Log-probability of the chosen token.
    pub chosen: f32,
    /// Ids and log-probabilities of the likeliest tokens, the likeliest first; the chosen token may be among them.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Returns the log-probabilities of `token` and of the `alternatives` likeliest tokens that are not banned.
    /// `logits` holds one value per token id.
    pub(crate) fn new(logits: &[f32], token: u32, alternatives: usize) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
        let logprob = |x: f32| (f64::from(x - largest) - total.ln()) as f32;
        let ranked = if alternatives == 0 { Vec::new() } else { super::sampler::ranked(logits) };
        let top = ranked.into_iter().take(alternatives);
        Self {
            chosen: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&x| logprob(x)),
            top: top.filter_map(|i| Some((i as u32, logprob(*logits.get(i)?)))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sampler::{Sampler, Sampling};
    use super::*;

    #[test]
    fn they_are_those_of_the_untempered_distribution() {
        let probabilities = [0.1f32, 0.5, 0.0, 0.4];
        let settings = Sampling { temperature: 2.0, top_k: 1, logprobs: Some(3), ..Sampling::default() };
        let mut logits = probabilities.map(|p| p.ln() - 2.0);
        let chosen = Sampler::new(settings, 0).sample(&mut logits);
        let logprobs = chosen.logprobs.unwrap();
        assert_eq!(chosen.token, 1);
        assert!((logprobs.chosen.exp() - 0.5).abs() < 1e-6, "{logprobs:?}");
        let top: Vec<u32> = logprobs.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(top, [1, 3, 0], "a token that cannot come is not among them");
        let with_none = Logprobs::new(&logits, 1, 0);
        assert!(with_none.top.is_empty());
        let all: f32 = Logprobs::new(&[0.3, -1.0, 7.5], 0, 3).top.iter().map(|(_, p)| p.exp()).sum();
        assert!((all - 1.0).abs() < 1e-6);
    }
}
