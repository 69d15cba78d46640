//! Block-wise replay: one forward pass that keeps each block's input, then the blocks from last to first, each loaded,
//! recomputed, differentiated and dropped.
//!
//! Peak memory is the embedding and head, one block with its gradients, and the hidden states.

use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::transforms::{eval, fallible_vjp};
use rayon::prelude::*;

use super::array::{from_vec, slice};
use super::attention::Positions;
use super::block::{Block, Context};
use super::forward::{FinalStates, Pass};
use super::linear::Weight;
use super::load::Loader;
use super::model::Ends;
use super::moments::{Collector, Extent, Moments};
use super::states::{Kept, Store};
use crate::error::{Error, Result};
use crate::sample::categorical;
use crate::spec::Role;

/// What is differentiated, summed over the tokens of a sequence.
pub(super) enum Objective<'a> {
    /// log p(y_t), with labels y_t drawn from the model's own distribution: its squares are the Fisher information.
    Likelihood { seed: u64 },
    /// The KL divergence of the model from the one whose last hidden states these are.
    Divergence(&'a FinalStates<'a>),
}

/// A forward pass that kept each block's inputs, on its way back.
pub(super) struct Replay<'a> {
    loader: Loader<'a>,
    last: FinalStates<'a>,
    store: Rc<Store>,
    /// E[x_j^2] of the linear layers' inputs, by block; the head's is last.
    importance: Vec<Moments>,
    /// Inputs of each block, by block and sequence; given up as the replay comes by.
    inputs: Vec<Vec<Kept>>,
    /// Gradient of the objective with respect to the current block's output, by sequence.
    cotangents: Vec<Array>,
}

/// One matrix's gradient on one sequence.
pub(super) struct Gradient {
    pub(super) role: Role,
    pub(super) gradient: Array,
}

impl<'a> Replay<'a> {
    /// Runs all sequences forward. `tick` is called once a block.
    pub(super) fn forward(mut pass: Pass<'a>, tick: &dyn Fn()) -> Result<Self> {
        let (mut inputs, mut importance) = (Vec::new(), Vec::new());
        for index in 0..pass.context.spec.layers.len() {
            let block = Block::load_for_many(&pass.loader, pass.context, index)?;
            let mut collector = Collector::new(Extent::Diagonal);
            inputs.push(pass.advance(&block, Some(&mut collector))?);
            importance.push(collector.moments()?);
            tick();
        }
        let (loader, store) = (pass.loader, Rc::clone(&pass.store));
        let last = pass.into_final()?;
        importance.push(last.head_moments(Extent::Diagonal)?);
        Ok(Self { loader, last, store, importance, inputs, cotangents: Vec::new() })
    }

    /// E[x_j^2] of the inputs of a block's linear layers, or of the head's.
    pub(super) fn importance(&self, block: Option<usize>) -> &Moments {
        &self.importance[block.unwrap_or(self.importance.len() - 1)]
    }

    /// Through the head: hands the head's own gradient of each sequence to `each` if `wanted`.
    pub(super) fn head(
        &mut self,
        objective: &Objective<'_>,
        wanted: bool,
        mut each: impl FnMut(usize, Gradient) -> Result<()>,
    ) -> Result<()> {
        for index in 0..self.last.len() {
            crate::interrupt::check()?;
            let (cotangent, gradient) = self.head_of(index, objective, wanted)?;
            self.cotangents.push(cotangent);
            if let Some(gradient) = gradient {
                each(index, Gradient { role: Role::Head, gradient })?;
            }
        }
        self.last.clear();
        Ok(())
    }

    fn head_of(
        &self,
        sequence: usize,
        objective: &Objective<'_>,
        wanted: bool,
    ) -> Result<(Array, Option<Array>)> {
        let FinalStates { context, ends, .. } = &self.last;
        let hidden = self.last.state(sequence)?;
        let tokens = hidden.shape()[1] as usize;
        let vocabulary = context.spec.vocab_size;
        let step = self.last.positions_at_once();
        let (mut parts, mut total): (Vec<Array>, Option<Array>) = (Vec::new(), None);
        for start in (0..tokens).step_by(step) {
            let end = (start + step).min(tokens);
            let part = slice(&hidden, 1, start, end)?;
            let mut values = self.last.logits(sequence, start, end)?;
            match objective {
                Objective::Likelihood { seed } => {
                    score(&mut values, vocabulary, seed ^ ((sequence as u64 + 1) << 32), start);
                }
                Objective::Divergence(target) => {
                    divergence(&mut values, target.logits(sequence, start, end)?, vocabulary);
                }
            }
            let cotangent = from_vec(values, &[1, end - start, vocabulary]).as_dtype(part.dtype())?;
            let mut gradients = head_gradients(*context, ends, part, cotangent, wanted)?;
            if wanted && let Some(gradient) = gradients.pop() {
                total = Some(match total {
                    Some(sum) => sum.add(gradient)?,
                    None => gradient,
                });
            }
            parts.extend(gradients);
            eval(parts.iter().chain(&total))?;
        }
        Ok((mlx_rs::ops::concatenate(&parts, 1)?, total))
    }

    /// Through block `index`: hands the gradients of the matrices with the `roles` to `each`, by sequence.
    pub(super) fn block(
        &mut self,
        index: usize,
        roles: &[Role],
        mut each: impl FnMut(usize, Vec<Gradient>) -> Result<()>,
    ) -> Result<()> {
        let context = self.last.context;
        let mut block = Block::load_for_many(&self.loader, context, index)?;
        let mut weights = Vec::new();
        for role in roles {
            if let Some(linear) = block.linear_mut(*role) {
                weights.push(linear.weight.dense(context.dtype)?);
            }
        }
        let inputs = self.inputs.pop().unwrap_or_default();
        for (sequence, kept) in inputs.into_iter().enumerate() {
            crate::interrupt::check()?;
            let x = self.store.take(kept)?;
            let gradients = block_gradients(context, &block, roles, &weights, x, &self.cotangents[sequence])?;
            let mut gradients = gradients.into_iter();
            if let Some(cotangent) = gradients.next() {
                self.cotangents[sequence] = cotangent;
            }
            let named = roles.iter().zip(gradients).map(|(&role, gradient)| Gradient { role, gradient });
            each(sequence, named.collect())?;
        }
        Ok(())
    }
}

/// Gradients with respect to the hidden states `part` and, if `wanted`, the head.
fn head_gradients(
    context: Context<'_>,
    ends: &Ends,
    part: Array,
    cotangent: Array,
    wanted: bool,
) -> Result<Vec<Array>> {
    let mut primals = vec![part];
    if wanted {
        primals.push(ends.head().dense(context.dtype)?);
    }
    let (_, gradients) = fallible_vjp(
        |primals: &[Array]| {
            let head = primals.get(1).map(|weight| Weight::Float(weight.clone()));
            let ends = Ends {
                embed: ends.embed.clone(),
                norm: ends.norm.clone(),
                head: head.or_else(|| ends.head.clone()),
            };
            Ok(vec![ends.logits(context, &primals[0]).map_err(|e| exception(&e))?])
        },
        &primals,
        &[cotangent],
    )?;
    Ok(gradients)
}

/// Gradients with respect to the block's input and the `weights` of its `roles`.
fn block_gradients(
    context: Context<'_>,
    block: &Block,
    roles: &[Role],
    weights: &[Array],
    x: Array,
    cotangent: &Array,
) -> Result<Vec<Array>> {
    let tokens = x.shape()[1] as usize;
    let mut primals = vec![x];
    primals.extend_from_slice(weights);
    let (_, gradients) = fallible_vjp(
        |primals: &[Array]| {
            let mut block = block.clone();
            for (role, weight) in roles.iter().zip(&primals[1..]) {
                if let Some(linear) = block.linear_mut(*role) {
                    linear.weight = Weight::Float(weight.clone());
                }
            }
            let mut positions = Positions::new(context.spec, 0, tokens);
            let y = block.forward(context, &primals[0], &mut positions, None).map_err(|e| exception(&e))?;
            Ok(vec![y])
        },
        &primals,
        std::slice::from_ref(cotangent),
    )?;
    eval(&gradients)?;
    Ok(gradients)
}

pub(super) fn exception(error: &Error) -> mlx_rs::error::Exception {
    mlx_rs::error::Exception::custom(error.to_string())
}

/// Turns rows of logits into gradients of log p(y) with respect to them, onehot(y) - softmax, with y drawn.
fn score(logits: &mut [f32], vocabulary: usize, seed: u64, first: usize) {
    logits.par_chunks_mut(vocabulary).enumerate().for_each(|(row, logits)| {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add((first + row) as u64));
        let label = categorical(logits, rng.f64()) as usize;
        softmax(logits, -1.0);
        logits[label] += 1.0;
    });
}

/// Turns rows of logits z into gradients of KL(target || softmax z) with respect to them, softmax z - target.
fn divergence(logits: &mut [f32], mut target: Vec<f32>, vocabulary: usize) {
    let rows = logits.par_chunks_mut(vocabulary).zip(target.par_chunks_mut(vocabulary));
    rows.for_each(|(logits, target)| {
        softmax(logits, 1.0);
        softmax(target, 1.0);
        logits.iter_mut().zip(target).for_each(|(x, t)| *x -= *t);
    });
}

/// Logits to `factor` times their probabilities.
fn softmax(logits: &mut [f32], factor: f64) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in logits.iter_mut() {
        *x = (*x - largest).exp();
    }
    let total: f64 = logits.iter().map(|&x| f64::from(x)).sum();
    let scale = (factor / total) as f32;
    for x in logits.iter_mut() {
        *x *= scale;
    }
}
