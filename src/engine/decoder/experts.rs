//! An MLP of experts: a router gives each token to some of them.
//!
//! The choice of a token's experts is made outside MLX: each expert then gets its tokens as one product, and no other
//! expert's weights are touched. MLX's gathered products would compute one token after the other on the CPU. Gradients
//! take the choice as constant.

use mlx_rs::Array;
use mlx_rs::ops::indexing::take_along_axis;
use mlx_rs::ops::{concatenate, softmax_axis};

use super::linear::{Linear, Weight};
use super::load::Loader;
use super::mlp::{Input, Mlp};
use crate::engine::array::to_vec;
use crate::error::Result;
use crate::models::spec::{ExpertsSpec, MlpSpec};

/// Router that chooses experts.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    pub(crate) weight: Weight,
    experts: ExpertsSpec,
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
        Ok(Some(Self { weight: loader.weight(&router.path)?, experts }))
    }

    /// Computes the probabilities [tokens, experts] of x [.., tokens, hidden].
    pub(crate) fn probabilities(&self, x: &Array) -> Result<Array> {
        let logits = self.weight.matmul_transposed(x)?;
        Ok(softmax_axis(&logits, -1, true)?.reshape(&[-1, self.experts.count as i32])?)
    }

    /// Chooses the likeliest experts of each token, among equal ones the first. Evaluates.
    pub(crate) fn choose(&self, probabilities: &Array) -> Result<Choice> {
        let ExpertsSpec { count, per_token, .. } = self.experts;
        let values = to_vec(probabilities)?;
        let mut experts = Vec::with_capacity(values.len() / count * per_token);
        let mut places = vec![Vec::new(); count];
        let mut order: Vec<usize> = Vec::new();
        for token in values.chunks_exact(count) {
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

    /// Computes the weighted sum of the chosen experts' outputs for x [.., tokens, hidden]. `observe` sees the input of
    /// each expert's layers.
    pub(crate) fn forward(
        &self,
        mlp: &Mlp,
        x: &Array,
        probabilities: &Array,
        choice: &Choice,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        let count = self.experts.count;
        let hidden_size = x.dim(-1);
        let tokens = x.reshape(&[-1, hidden_size])?;
        let used = (0..count).filter(|&expert| !choice.places[expert].is_empty());
        let mut outputs = Vec::new();
        for expert in used {
            let own = tokens.take_axis(choice.tokens(expert), 0)?;
            let input = |linears: &[Linear]| Input { tap: linears[expert].tap, index: expert, count };
            observe(input(&mlp.gate), &own);
            let product = |linears: &[Linear], x: &Array| linears[expert].forward(x);
            let inner = mlp.inner(&product(&mlp.gate, &own)?, &product(&mlp.up, &own)?)?;
            observe(input(&mlp.down), &inner);
            outputs.push(product(&mlp.down, &inner)?);
        }
        let outputs = concatenate(&outputs, 0)?.take_axis(choice.output_rows(), 0)?;
        let per_token = choice.per_token as i32;
        let outputs = outputs.reshape(&[-1, per_token, hidden_size])?;
        let weights = self.weights(probabilities, choice)?.expand_dims(2)?;
        Ok(outputs.multiply(weights)?.sum_axis(1, false)?.reshape(x.shape())?)
    }

    /// Returns the factors on the outputs of each token's experts, [tokens, experts per token].
    fn weights(&self, probabilities: &Array, choice: &Choice) -> Result<Array> {
        let sizes = [-1, choice.per_token as i32];
        let experts = Array::from_slice(&choice.experts, &[choice.experts.len() as i32]).reshape(&sizes)?;
        let weights = take_along_axis(probabilities, &experts, 1)?;
        if !self.experts.normalized {
            return Ok(weights);
        }
        Ok(weights.divide(weights.sum_axis(1, true)?)?)
    }
}

impl Choice {
    /// Returns the indices of an expert's tokens.
    fn tokens(&self, expert: usize) -> Array {
        let tokens: Vec<u32> =
            self.places[expert].iter().map(|place| (place / self.per_token) as u32).collect();
        Array::from_slice(&tokens, &[tokens.len() as i32])
    }

    /// Returns, for each chosen expert of each token, the row of its output among all experts' outputs, expert after
    /// expert.
    fn output_rows(&self) -> Array {
        let mut rows = vec![0u32; self.experts.len()];
        for (row, &place) in self.places.iter().flatten().enumerate() {
            rows[place] = row as u32;
        }
        Array::from_slice(&rows, &[rows.len() as i32])
    }
}
