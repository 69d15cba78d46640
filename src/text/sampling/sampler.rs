//! Sampler: settings, masks and the draw.

use super::logprobs::Logprobs;
use super::penalties::{History, Penalties};
use crate::numerics::lanes;
use fastrand::Rng;

/// Settings by which tokens are chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; 0 chooses greedily.
    pub temperature: f32,
    /// Probability that the kept tokens must reach together: the smallest such set is kept; 1 keeps all.
    pub top_p: f32,
    /// Number of likeliest tokens to keep; 0 keeps all.
    pub top_k: usize,
    /// Share of the likeliest token's probability below which tokens are dropped; 0 keeps all.
    pub min_p: f32,
    /// Biases and penalties, applied to the logits before anything else.
    pub penalties: Penalties,
    /// Number of likeliest tokens whose log-probabilities are returned with that of the chosen one; `None` returns no
    /// log-probabilities.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            penalties: Penalties::default(),
            logprobs: None,
        }
    }
}

/// Token that a sampler chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Id of the token.
    pub token: u32,
    /// Log-probabilities of the token and its alternatives, if [`Sampling::logprobs`] asks for them.
    pub logprobs: Option<Logprobs>,
}

/// Sampler with its own random numbers, which remembers the tokens that it chose.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    rng: Rng,
    history: History,
}

impl Sampler {
    /// Returns a sampler without history. Samplers with the same settings and `seed` draw alike.
    pub fn new(settings: Sampling, seed: u64) -> Self {
        Self { settings, rng: Rng::with_seed(seed), history: History::default() }
    }

    /// Replaces the remembered tokens with `prompt`, which the next tokens continue. The random numbers are not
    /// restarted.
    pub fn start(&mut self, prompt: &[u32]) {
        self.history = History::new(prompt);
    }

    /// Chooses the next token from `logits`, one value per token id, and remembers it for the penalties on later
    /// tokens. Leaves `logits` penalized and, unless the choice is greedy, scaled and masked.
    pub fn sample(&mut self, logits: &mut [f32]) -> Chosen {
        self.settings.penalties.apply(logits, &self.history);
        let plain = self.settings.logprobs.map(|alternatives| (logits.to_vec(), alternatives));
        let token = self.choose(logits);
        self.history.push(token);
        let logprobs = plain.map(|(logits, alternatives)| Logprobs::new(&logits, token, alternatives));
        Chosen { token, logprobs }
    }

    fn choose(&mut self, logits: &mut [f32]) -> u32 {
        let largest = lanes::largest(logits);
        if self.settings.temperature <= 0.0 || !largest.is_finite() {
            return first_of(largest, logits);
        }
        // Relative to the largest, so that no temperature is too low for the range of numbers.
        for x in logits.iter_mut() {
            *x = (*x - largest) / self.settings.temperature;
        }
        mask_top_k(logits, self.settings.top_k);
        mask_top_p(logits, self.settings.top_p);
        mask_min_p(logits, self.settings.min_p);
        categorical(logits, self.rng.f64())
    }
}

/// Returns the index of the largest logit, the first of equals; 0 if there are none.
pub fn argmax(logits: &[f32]) -> u32 {
    first_of(lanes::largest(logits), logits)
}

fn first_of(largest: f32, logits: &[f32]) -> u32 {
    logits.iter().position(|&x| x >= largest).unwrap_or(0) as u32
}

/// True if a token can be drawn from `logits`: none is NaN, and one at least is finite.
pub fn are_numbers(logits: &[f32]) -> bool {
    let found = lanes::kinds(logits);
    found.finite && !found.nan
}

/// Returns the token at quantile `u`, from 0 to 1, of softmax(`logits`) in the order of token ids.
pub fn categorical(logits: &[f32], u: f64) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| f64::from((x - largest).exp());
    let total: f64 = logits.iter().map(|&x| weight(x)).sum();
    let mut left = u * total;
    let mut last = 0;
    for (index, &x) in logits.iter().enumerate() {
        let w = weight(x);
        if w > 0.0 {
            last = index;
            if left < w {
                return index as u32;
            }
            left -= w;
        }
    }
    last as u32
}

/// Returns the indices of unmasked logits, the largest first, ties by index.
pub(crate) fn ranked(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > f32::NEG_INFINITY).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order
}

fn mask_top_k(logits: &mut [f32], k: usize) {
    if k > 0 && k < logits.len() {
        for index in ranked(logits).into_iter().skip(k) {
            logits[index] = f32::NEG_INFINITY;
        }
    }
}

fn mask_top_p(logits: &mut [f32], p: f32) {
    if p >= 1.0 {
        return;
    }
    let order = ranked(logits);
    let largest = order.first().map_or(0.0, |&i| logits[i]);
    let weights: Vec<f64> = order.iter().map(|&i| f64::from((logits[i] - largest).exp())).collect();
    let total: f64 = weights.iter().sum();
    let mut reached = 0.0;
    for (index, weight) in order.into_iter().zip(weights) {
        // The likeliest always stays: nothing has been reached before it.
        if reached > 0.0 && reached >= f64::from(p) * total {
            logits[index] = f32::NEG_INFINITY;
        }
        reached += weight;
    }
}

fn mask_min_p(logits: &mut [f32], p: f32) {
    if p > 0.0 {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = largest + p.min(1.0).ln();
        logits.iter_mut().filter(|x| **x < least).for_each(|x| *x = f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(logits: &[f32]) -> Vec<usize> {
        (0..logits.len()).filter(|&i| logits[i].is_finite()).collect()
    }

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    #[test]
    fn the_likeliest_is_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 2.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), 0);
        assert_eq!(argmax(&[]), 0);
        let mut row = vec![-0.5; 100];
        row[97] = 0.25;
        assert_eq!(argmax(&row), 97);
    }

    #[test]
    fn masks_keep_what_they_say() {
        let base = logits(&[0.1, 0.5, 0.25, 0.15]);
        let masked = |f: fn(&mut [f32])| {
            let mut x = base.clone();
            f(&mut x);
            kept(&x)
        };
        assert_eq!(masked(|x| mask_top_k(x, 2)), [1, 2]);
        assert_eq!(masked(|x| mask_top_k(x, 0)), [0, 1, 2, 3]);
        assert_eq!(masked(|x| mask_top_p(x, 0.7)), [1, 2]);
        assert_eq!(masked(|x| mask_top_p(x, 0.0)), [1]);
        assert_eq!(masked(|x| mask_min_p(x, 0.4)), [1, 2]);
        assert_eq!(masked(|x| mask_min_p(x, 1.0)), [1]);
    }

    /// Returns the number of times that each token comes in `draws` draws.
    fn counts(settings: &Sampling, probabilities: &[f32], draws: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(settings.clone(), 7);
        let mut counts = vec![0u32; probabilities.len()];
        for _ in 0..draws {
            counts[sampler.sample(&mut logits(probabilities)).token as usize] += 1;
        }
        counts
    }

    /// Returns Pearson's chi-square statistic over the tokens that can come.
    fn chi_square(counts: &[u32], expected: &[f64]) -> f64 {
        let total = f64::from(counts.iter().sum::<u32>());
        counts
            .iter()
            .zip(expected)
            .filter(|(_, p)| **p > 0.0)
            .map(|(&n, p)| (f64::from(n) - total * p).powi(2) / (total * p))
            .sum()
    }

    const PROBABILITIES: [f32; 6] = [0.06, 0.4, 0.2, 0.02, 0.24, 0.08];
    /// 99.9th percentiles of chi-square with 2 and 5 degrees of freedom.
    const CHI_SQUARE_2: f64 = 13.8;
    const CHI_SQUARE_5: f64 = 20.5;

    #[test]
    fn draws_follow_the_distribution() {
        let settings = Sampling { temperature: 1.0, ..Sampling::default() };
        let counts = counts(&settings, &PROBABILITIES, 20_000);
        let chi = chi_square(&counts, &PROBABILITIES.map(f64::from));
        assert!(chi < CHI_SQUARE_5, "{counts:?}: {chi}");
    }

    #[test]
    fn top_p_draws_follow_the_renormalized_nucleus() {
        // 0.4 + 0.24 falls short of 0.7, so 0.2 is the last one in.
        let settings = Sampling { temperature: 1.0, top_p: 0.7, ..Sampling::default() };
        let counts = counts(&settings, &PROBABILITIES, 20_000);
        let expected = [0.0, 0.4, 0.2, 0.0, 0.24, 0.0].map(|p| p / 0.84);
        assert!([0, 3, 5].iter().all(|&i| counts[i] == 0), "{counts:?}");
        let chi = chi_square(&counts, &expected);
        assert!(chi < CHI_SQUARE_2, "{counts:?}: {chi}");
        // Temperature comes before the mask: at 0.5 the squares count, of which the first two make 0.85.
        let settings = Sampling { temperature: 0.5, ..settings };
        let counts = super::tests::counts(&settings, &PROBABILITIES, 20_000);
        assert!(counts[1] > 0 && counts[4] > 0 && [0, 2, 3, 5].iter().all(|&i| counts[i] == 0), "{counts:?}");
    }

    #[test]
    fn masking_probabilities_instead_would_give_other_samples() {
        // The old bug: softmax first, zeros for what top-p drops, then a draw from the softmax of *that*.
        let masked_probabilities = |u: f64| {
            let mut probabilities = PROBABILITIES;
            for (p, kept) in probabilities.iter_mut().zip([false, true, true, false, true, false]) {
                *p = if kept { *p } else { 0.0 };
            }
            categorical(&probabilities, u)
        };
        let masked_logits = |u: f64| {
            let mut logits = logits(&PROBABILITIES);
            mask_top_p(&mut logits, 0.7);
            categorical(&logits, u)
        };
        let draws = 20_000;
        let quantiles = |i: u32| (f64::from(i) + 0.5) / f64::from(draws);
        let differing =
            (0..draws).filter(|&i| masked_probabilities(quantiles(i)) != masked_logits(quantiles(i)));
        assert!(differing.count() > draws as usize / 4);
        // What was dropped comes back, and the test of the distribution sees it.
        let mut counts = [0u32; 6];
        (0..draws).for_each(|i| counts[masked_probabilities(quantiles(i)) as usize] += 1);
        assert!([0, 3, 5].iter().all(|&i| counts[i] > 0), "{counts:?}");
        let expected = [0.0, 0.4, 0.2, 0.0, 0.24, 0.0].map(|p| p / 0.84);
        assert!(chi_square(&counts, &expected) > 100.0 * CHI_SQUARE_2, "{counts:?}");
    }

    #[test]
    fn greedy_takes_the_first_largest_and_seeds_repeat() {
        let mut greedy = Sampler::new(Sampling::default(), 0);
        assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0]).token, 1);
        let settings =
            Sampling { temperature: 1.5, top_p: 0.9, top_k: 3, min_p: 0.01, ..Sampling::default() };
        let cold = Sampling { temperature: 1e-40, ..Sampling::default() };
        assert_eq!(Sampler::new(cold, 0).sample(&mut [1.0, 3.0, 2.0]).token, 1);
        let draw = |seed| {
            let mut sampler = Sampler::new(settings.clone(), seed);
            (0..50).map(|_| sampler.sample(&mut logits(&[0.1, 0.5, 0.25, 0.15])).token).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn what_was_chosen_is_penalized_until_a_new_start() {
        let penalties = Penalties { presence: 5.0, ..Penalties::default() };
        let mut sampler = Sampler::new(Sampling { penalties, ..Sampling::default() }, 0);
        let next = |sampler: &mut Sampler| sampler.sample(&mut [1.0, 3.0, 2.0]).token;
        assert_eq!([1, 2, 0, 1].map(|_| next(&mut sampler)), [1, 2, 0, 1]);
        sampler.start(&[1]);
        assert_eq!(next(&mut sampler), 1, "the prompt does not count");
    }
}
