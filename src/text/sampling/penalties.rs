//! Changes to logits before a token is chosen from them: a bias, and penalties on tokens that occurred before.
//!
//! The formulas are those of mlx-lm 0.32.2 (`sample_utils.py`), in its order, with one difference: the frequency and
//! presence penalties of mlx-lm count the last 20 tokens, prompt included. Here they count every generated token and
//! none of the prompt, as OpenAI defines these parameters.

use std::collections::BTreeMap;

/// Penalties and biases. The default changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Penalties {
    /// Biases, by token id: each is added to the token's logit; minus infinity bans the token.
    pub bias: BTreeMap<u32, f32>,
    /// Penalty on the latest tokens, prompt included: positive logits are divided by its factor, negative ones
    /// multiplied (arXiv 1909.05858). `None` for no penalty.
    pub repetition: Option<Repetition>,
    /// Amount subtracted from a token's logit for each time that the token was generated.
    pub frequency: f32,
    /// Amount subtracted, once, from the logit of each token that was generated.
    pub presence: f32,
}

/// Repetition penalty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repetition {
    /// Factor of the penalty: above 1 discourages repetition, below 1 encourages it.
    pub factor: f32,
    /// Number of latest tokens that count; 0 for all of them.
    pub context: usize,
}

/// Tokens before the one that is to be chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    tokens: Vec<u32>,
    /// Number of times that each token was generated, by id.
    generated: BTreeMap<u32, u32>,
}

impl History {
    pub(crate) fn new(prompt: &[u32]) -> Self {
        Self { tokens: prompt.to_vec(), generated: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
        *self.generated.entry(token).or_default() += 1;
    }

    /// Returns the ids among the latest `count` tokens, or among all if `count` is 0, each once and sorted.
    fn latest(&self, count: usize) -> Vec<u32> {
        let start = if count == 0 { 0 } else { self.tokens.len().saturating_sub(count) };
        let mut latest = self.tokens.get(start..).unwrap_or_default().to_vec();
        latest.sort_unstable();
        latest.dedup();
        latest
    }
}

impl Penalties {
    /// Applies the biases and penalties to `logits`, one value per token id. Ids past their end are ignored.
    pub(crate) fn apply(&self, logits: &mut [f32], history: &History) {
        let mut change = |token: u32, f: &dyn Fn(f32) -> f32| {
            if let Some(x) = logits.get_mut(token as usize) {
                *x = f(*x);
            }
        };
        for (&token, &bias) in &self.bias {
            change(token, &|x| x + bias);
        }
        if let Some(Repetition { factor, context }) = self.repetition {
            for token in history.latest(context) {
                change(token, &|x| if x < 0.0 { x * factor } else { x / factor });
            }
        }
        for (&token, &count) in &history.generated {
            change(token, &|x| x - self.presence - self.frequency * count as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(prompt: &[u32], generated: &[u32]) -> History {
        let mut history = History::new(prompt);
        for &token in generated {
            history.push(token);
        }
        history
    }

    fn apply(penalties: &Penalties, history: &History) -> Vec<f32> {
        let mut logits = vec![2.0, -2.0, 0.5, 1.0];
        penalties.apply(&mut logits, history);
        logits
    }

    #[test]
    fn repetition_is_that_of_mlx_lm() {
        // make_repetition_penalty(2.0, 2) and (2.0) over the same tokens and logits. A token that is there twice is
        // penalized once; prompt tokens count.
        let with = |context| Penalties {
            repetition: Some(Repetition { factor: 2.0, context }),
            ..Penalties::default()
        };
        let history = history(&[0, 3, 1], &[1, 2]);
        assert_eq!(apply(&with(2), &history), [2.0, -4.0, 0.25, 1.0]);
        assert_eq!(apply(&with(20), &history), [1.0, -4.0, 0.25, 0.5]);
        assert_eq!(apply(&with(0), &history), apply(&with(5), &history));
        assert_eq!(apply(&with(20), &History::default()), [2.0, -2.0, 0.5, 1.0]);
    }

    #[test]
    fn frequency_and_presence_count_what_was_generated() {
        let history = history(&[0, 0, 3], &[1, 1, 2]);
        let frequency = Penalties { frequency: 0.5, ..Penalties::default() };
        assert_eq!(apply(&frequency, &history), [2.0, -3.0, 0.0, 1.0]);
        let presence = Penalties { presence: 0.5, ..Penalties::default() };
        assert_eq!(apply(&presence, &history), [2.0, -2.5, 0.0, 1.0]);
        let both = Penalties { presence: 0.25, frequency: -1.0, ..Penalties::default() };
        assert_eq!(apply(&both, &history), [2.0, -0.25, 1.25, 1.0]);
    }

    #[test]
    fn a_bias_comes_before_the_penalties() {
        let penalties = Penalties {
            bias: BTreeMap::from([(0, -3.0), (2, f32::NEG_INFINITY), (9, 1.0)]),
            repetition: Some(Repetition { factor: 2.0, context: 20 }),
            ..Penalties::default()
        };
        assert_eq!(apply(&penalties, &history(&[0], &[])), [-2.0, -2.0, f32::NEG_INFINITY, 1.0]);
    }
}
