//! Choosing the next token from its logits.
//!
//! Everything happens on logits: temperature, then masks that set logits to minus infinity, then a draw from the
//! softmax of what is left. (Masking probabilities and drawing from them as if they were logits, an old bug of the ports
//! that this project comes from, gives another distribution.)

use fastrand::Rng;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this.
    pub top_p: f32,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Drop tokens less likely than this times the likeliest.
    pub min_p: f32,
}

/// A sampler with its own random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    rng: Rng,
}

impl Sampler {
    /// Draws repeatably for a `seed`.
    pub fn new(settings: Sampling, seed: u64) -> Self {
        Self { settings, rng: Rng::with_seed(seed) }
    }

    /// The next token. `logits` is left masked.
    pub fn sample(&mut self, logits: &mut [f32]) -> u32 {
        if self.settings.temperature <= 0.0 {
            return argmax(logits);
        }
        for x in logits.iter_mut() {
            *x /= self.settings.temperature;
        }
        mask_top_k(logits, self.settings.top_k);
        mask_top_p(logits, self.settings.top_p);
        mask_min_p(logits, self.settings.min_p);
        categorical(logits, self.rng.f64())
    }
}

/// The first of the largest.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = index;
        }
    }
    best as u32
}

/// The token at quantile `u` of softmax(`logits`).
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

/// Indices of unmasked logits, the largest first, ties by index.
fn ranked(logits: &[f32]) -> Vec<usize> {
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

    #[test]
    fn draws_follow_the_distribution() {
        // Chi-square with 3 degrees of freedom: 16.3 is its 99.9th percentile.
        let probabilities = [0.1f32, 0.5, 0.25, 0.15];
        let settings = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0 };
        let mut sampler = Sampler::new(settings, 7);
        let mut counts = [0u32; 4];
        for _ in 0..10_000 {
            counts[sampler.sample(&mut logits(&probabilities)) as usize] += 1;
        }
        let chi: f64 = counts
            .iter()
            .zip(probabilities)
            .map(|(&n, p)| (f64::from(n) - 1e4 * f64::from(p)).powi(2) / (1e4 * f64::from(p)))
            .sum();
        assert!(chi < 16.3, "{counts:?}: {chi}");
    }

    #[test]
    fn greedy_takes_the_first_largest_and_seeds_repeat() {
        let mut greedy = Sampler::new(Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0 }, 0);
        assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0]), 1);
        let settings = Sampling { temperature: 1.5, top_p: 0.9, top_k: 3, min_p: 0.01 };
        let draw = |seed| {
            let mut sampler = Sampler::new(settings, seed);
            (0..50).map(|_| sampler.sample(&mut logits(&[0.1, 0.5, 0.25, 0.15]))).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
