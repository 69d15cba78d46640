//! The router of an MLP of experts: scores of the experts, the choice of a token's experts, and their weights.
//!
//! The choice is made outside MLX, and gradients take it as constant.

use mlx_rs::Array;
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{concatenate, logaddexp, maximum, select, sigmoid, softmax_axis, sqrt};

use super::linear::Linear;
use super::load::{Loader, decode_part};
use crate::engine::array::{capped, factor, slice, to_vec};
use crate::error::{Error, Result};
use crate::models::spec::{ExpertsSpec, MlpSpec, Normalization, Score};

/// Router that chooses experts.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    pub(crate) linear: Linear,
    /// Addends of the scores that experts are chosen by.
    correction: Option<Vec<f32>>,
    pub(super) experts: ExpertsSpec,
}

/// Experts chosen for the tokens of a sequence.
pub(crate) struct Choice {
    /// Chosen experts of each token, token after token.
    experts: Vec<u32>,
    per_token: usize,
    /// For each expert, the indices in `experts` that name it.
    places: Vec<Vec<usize>>,
}

impl Router {
    /// Loads the router of an MLP; `None` where it has no experts.
    pub(crate) fn load(loader: &Loader<'_>, spec: &MlpSpec) -> Result<Option<Self>> {
        let (Some(experts), Some(router)) = (spec.experts, spec.router()) else { return Ok(None) };
        let correction = spec.correction().map(|name| {
            let tensor = loader.source.tensor(&name)?;
            Ok::<_, Error>(decode_part(tensor, 0..tensor.len()))
        });
        Ok(Some(Self { linear: loader.linear(&router)?, correction: correction.transpose()?, experts }))
    }

    /// Computes the scores [tokens, experts] of x [.., tokens, hidden], in float32.
    pub(crate) fn scores(&self, x: &Array) -> Result<Array> {
        let products = self.linear.forward(x)?.reshape(&[-1, self.experts.count as i32])?;
        let mut products = products.as_dtype(mlx_rs::Dtype::Float32)?;
        if let Some(cap) = self.experts.cap {
            products = capped(&products, cap)?;
        }
        Ok(match self.experts.score {
            Score::Softmax => softmax_axis(&products, -1, true)?,
            Score::Sigmoid => sigmoid(&products)?,
            Score::SqrtSoftplus => sqrt(logaddexp(&products, factor(0.0, &products)?)?)?,
            Score::SoftmaxOfChosen | Score::Mixer { .. } => products,
        })
    }

    /// Chooses the experts with the highest corrected scores of each token, among equal ones the first. Evaluates.
    pub(crate) fn choose(&self, scores: &Array) -> Result<Choice> {
        let ExpertsSpec { count, per_token, .. } = self.experts;
        let mut values = to_vec(scores)?;
        let mut experts = Vec::with_capacity(values.len() / count * per_token);
        let mut places = vec![Vec::new(); count];
        let mut order: Vec<usize> = Vec::new();
        for token in values.chunks_exact_mut(count) {
            if let Some(correction) = &self.correction {
                token.iter_mut().zip(correction).for_each(|(score, addend)| *score += addend);
            }
            self.keep_groups(token);
            order.clear();
            order.extend(0..count);
            order.sort_by(|&a, &b| token[b].total_cmp(&token[a]));
            for &expert in &order[..per_token] {
                places[expert].push(experts.len());
                experts.push(expert as u32);
            }
        }
        Ok(Choice { experts, per_token, places })
    }

    /// Makes the scores of experts outside the best groups less than all others.
    fn keep_groups(&self, scores: &mut [f32]) {
        let Some(groups) = self.experts.groups else { return };
        let size = scores.len() / groups.count;
        let best_two = |group: &[f32]| {
            let mut group = group.to_vec();
            group.sort_by(|a, b| b.total_cmp(a));
            group.iter().take(2).sum::<f32>()
        };
        let sums: Vec<f32> = scores.chunks_exact(size).map(best_two).collect();
        let mut order: Vec<usize> = (0..groups.count).collect();
        order.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
        for &group in &order[groups.chosen..] {
            scores[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
        }
    }

    /// Returns the weights of each token's experts, [tokens, experts per token], in float32.
    pub(super) fn weights(&self, scores: &Array, choice: &Choice) -> Result<Array> {
        let sizes = [-1, choice.per_token as i32];
        let experts = Array::from_slice(&choice.experts, &[choice.experts.len() as i32]).reshape(&sizes)?;
        let mut weights = match self.experts.score {
            Score::Mixer { jitter } => mixed(scores, &experts, jitter)?,
            _ => take_along_axis(scores, &experts, 1)?,
        };
        if self.experts.score == Score::SoftmaxOfChosen {
            weights = softmax_axis(&weights, -1, true)?;
        }
        let sum = || weights.sum_axis(1, true);
        weights = match self.experts.normalization {
            Normalization::None => weights,
            Normalization::Sum { eps: 0.0 } => weights.divide(sum()?)?,
            Normalization::Sum { eps } => weights.divide(sum()?.add(factor(eps, &weights)?)?)?,
            Normalization::AtLeast(least) => weights.divide(maximum(sum()?, factor(least, &weights)?)?)?,
        };
        if (self.experts.factor - 1.0).abs() > f32::EPSILON {
            weights = weights.multiply(factor(self.experts.factor, &weights)?)?;
        }
        Ok(weights)
    }
}

/// Computes the weights of `experts` [tokens, experts per token] from the router's products: see [`Score::Mixer`].
fn mixed(products: &Array, experts: &Array, jitter: f32) -> Result<Array> {
    let (tokens, count) = (products.dim(0), products.dim(1));
    let out = factor(f32::NEG_INFINITY, products)?;
    let numbers = Array::from_iter(0..count as u32, &[1, count]);
    let (mut left, mut weights) = (products.clone(), Vec::new());
    for place in 0..experts.dim(1) as usize {
        let expert = slice(experts, 1, place, place + 1)?;
        let top = take_along_axis(products, &expert, 1)?;
        let size = maximum(products.abs()?, &top)?;
        let is_far = top.subtract(products)?.divide(size)?.gt(factor(2.0 * jitter, products)?)?;
        let band = softmax_axis(select(is_far, &out, &left)?, -1, true)?;
        weights.push(take_along_axis(&band, &expert, 1)?.reshape(&[tokens, 1])?);
        left = select(numbers.eq(&expert)?, &out, &left)?;
    }
    if weights.is_empty() {
        return Err(Error::engine("a router that chooses no expert"));
    }
    Ok(concatenate(&weights, 1)?)
}

impl Choice {
    /// True if some token chose the expert.
    pub(super) fn names(&self, expert: usize) -> bool {
        !self.places[expert].is_empty()
    }

    /// Returns the indices of an expert's tokens.
    pub(super) fn tokens(&self, expert: usize) -> Array {
        let tokens: Vec<u32> =
            self.places[expert].iter().map(|place| (place / self.per_token) as u32).collect();
        Array::from_slice(&tokens, &[tokens.len() as i32])
    }

    /// Returns the indices of an expert's weights among all, token after token.
    pub(super) fn weights_of(&self, expert: usize) -> Array {
        let places: Vec<u32> = self.places[expert].iter().map(|&place| place as u32).collect();
        Array::from_slice(&places, &[places.len() as i32])
    }

    /// Returns, for each chosen expert of each token, the row of its output among all experts' outputs, expert after
    /// expert.
    pub(super) fn output_rows(&self) -> Array {
        let mut rows = vec![0u32; self.experts.len()];
        for (row, &place) in self.places.iter().flatten().enumerate() {
            rows[place] = row as u32;
        }
        Array::from_slice(&rows, &[rows.len() as i32])
    }

    /// Returns the number of experts per token.
    pub(super) fn per_token(&self) -> i32 {
        self.per_token as i32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::array::from_vec;
    use crate::engine::decoder::linear::Weight;
    use crate::engine::runtime::Engine;
    use crate::models::spec::{Groups, Tap};

    /// Experts and weights of one token, whose products with the router are `products`.
    fn routed(experts: ExpertsSpec, correction: Option<Vec<f32>>, products: &[f32]) -> (Vec<u32>, Vec<f32>) {
        Engine::start().unwrap();
        let count = products.len();
        let identity = (0..count * count).map(|i| f32::from(u8::from(i % (count + 1) == 0))).collect();
        let weight = Weight::Float(from_vec(identity, &[count, count]));
        let linear = Linear { path: "router".into(), tap: Tap::MLP, weight, bias: None };
        let router = Router { linear, correction, experts };
        let scores = router.scores(&from_vec(products.to_vec(), &[1, 1, count])).unwrap();
        let choice = router.choose(&scores).unwrap();
        let weights = to_vec(&router.weights(&scores, &choice).unwrap()).unwrap();
        (choice.experts, weights)
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(found.len() == expected.len() && found.iter().zip(expected).all(is_close), "{found:?}");
    }

    #[test]
    fn correction_and_groups_are_no_weights() {
        let experts = ExpertsSpec { score: Score::Sigmoid, factor: 2.0, ..ExpertsSpec::new(4, 1, 8) };
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let products = [2.0, -3.0, 1.0, 1.2];
        let (chosen, weights) = routed(experts, None, &products);
        assert_eq!(chosen, [0]);
        assert_close(&weights, &[2.0 * sigmoid(2.0)]);
        let correction = Some(vec![0.0, 0.0, 0.5, 0.0]);
        let grouped = ExpertsSpec { groups: Some(Groups { count: 2, chosen: 1 }), ..experts };
        let (chosen, weights) = routed(grouped, correction, &products);
        assert_eq!(chosen, [2]);
        assert_close(&weights, &[2.0 * sigmoid(1.0)]);
        // The best two of the second group together are more than those of the first.
        assert_eq!(routed(grouped, None, &products).0, [3]);
    }

    #[test]
    fn weights_are_divided_by_their_sum() {
        let experts = ExpertsSpec::new(3, 2, 8);
        let products = [0.0, 1.0, 2.0];
        let share = 1.0 / (1.0 + 1.0_f32.exp().recip());
        let (chosen, weights) = routed(experts.normalized(true, 1e-20), None, &products);
        assert_eq!(chosen, [2, 1]);
        assert_close(&weights, &[share, 1.0 - share]);
        let of_chosen = ExpertsSpec { score: Score::SoftmaxOfChosen, ..experts };
        assert_close(&routed(of_chosen, None, &products).1, &[share, 1.0 - share]);
        let at_least = ExpertsSpec { normalization: Normalization::AtLeast(4.0), ..experts };
        let sum: f32 = products.iter().map(|x| x.exp()).sum();
        assert_close(
            &routed(at_least, None, &products).1,
            &[2.0_f32.exp() / sum / 4.0, 1.0_f32.exp() / sum / 4.0],
        );
        let roots = ExpertsSpec { score: Score::SqrtSoftplus, cap: Some(1.5), ..experts };
        let root = |x: f32| (1.5 * (x / 1.5).tanh()).exp().ln_1p().sqrt();
        assert_close(&routed(roots, None, &products).1, &[root(2.0), root(1.0)]);
    }

    #[test]
    fn the_mixer_weighs_among_the_nearest() {
        let experts = ExpertsSpec { score: Score::Mixer { jitter: 0.1 }, ..ExpertsSpec::new(4, 2, 8) };
        let (chosen, weights) = routed(experts, None, &[0.95, -1.0, 1.0, 0.2]);
        assert_eq!(chosen, [2, 0]);
        assert_close(&weights, &[1.0 / (1.0 + (-0.05_f32).exp()), 1.0]);
    }
}
