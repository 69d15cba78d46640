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
use crate::spec::Role;
use crate::vector;

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
    cotangents: Vec<Kept>,
}

/// One matrix's gradient on one sequence, [columns, rows]: differentiation makes it in this order.
pub(super) struct Gradient {
    pub(super) role: Role,
    pub(super) transposed: Array,
}

impl Gradient {
    fn new(role: Role, gradient: &Array) -> Self {
        Self { role, transposed: gradient.t() }
    }
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
            self.cotangents.push(self.store.put(cotangent)?);
            if let Some(gradient) = gradient {
                each(index, Gradient::new(Role::Head, &gradient))?;
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
        let cotangent = mlx_rs::ops::concatenate(&parts, 1)?;
        eval([&cotangent])?;
        Ok((cotangent, total))
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
        let streams = self.last.streams;
        let cotangents = std::mem::take(&mut self.cotangents);
        let mut waiting = self.inputs.pop().unwrap_or_default().into_iter().zip(cotangents).peekable();
        while waiting.peek().is_some() {
            crate::interrupt::check()?;
            let mut found = Vec::with_capacity(streams.count());
            for (index, (input, cotangent)) in waiting.by_ref().take(streams.count()).enumerate() {
                let (x, cotangent) = (self.store.take(input)?, self.store.take(cotangent)?);
                found.push(
                    streams.on(index, || block_gradients(context, &block, roles, &weights, x, cotangent))?,
                );
            }
            streams.eval(found.len(), found.iter().flatten())?;
            for gradients in found {
                let mut gradients = gradients.into_iter();
                let cotangent = gradients.next();
                let named =
                    roles.iter().zip(gradients).map(|(&role, gradient)| Gradient::new(role, &gradient));
                each(self.cotangents.len(), named.collect())?;
                self.cotangents.extend(cotangent.map(|array| self.store.put(array)).transpose()?);
            }
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

/// Gradients with respect to the block's input and the `weights` of its `roles`, not evaluated yet.
fn block_gradients(
    context: Context<'_>,
    block: &Block,
    roles: &[Role],
    weights: &[Array],
    x: Array,
    cotangent: Array,
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
        &[cotangent],
    )?;
    Ok(gradients)
}

pub(super) fn exception(error: &Error) -> mlx_rs::error::Exception {
    mlx_rs::error::Exception::custom(error.to_string())
}

/// Turns rows of logits into gradients of log p(y) with respect to them, onehot(y) - softmax, with y drawn.
fn score(logits: &mut [f32], vocabulary: usize, seed: u64, first: usize) {
    logits.par_chunks_mut(vocabulary).enumerate().for_each(|(row, logits)| {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add((first + row) as u64));
        let largest = vector::largest(logits);
        let total = vector::exponentials(logits, largest);
        let label = drawn(logits, rng.f64() * total);
        scale(logits, -1.0 / total);
        logits[label] += 1.0;
    });
}

/// Turns rows of logits z into gradients of KL(target || softmax z) with respect to them, softmax z - target.
fn divergence(logits: &mut [f32], mut target: Vec<f32>, vocabulary: usize) {
    let rows = logits.par_chunks_mut(vocabulary).zip(target.par_chunks_mut(vocabulary));
    rows.for_each(|(logits, target)| {
        for row in [&mut *logits, target] {
            let largest = vector::largest(row);
            let total = vector::exponentials(row, largest);
            scale(row, 1.0 / total);
        }
        logits.iter_mut().zip(target).for_each(|(x, t)| *x -= *t);
    });
}

/// The index at which the weights before it and its own come to more than `left`.
fn drawn(weights: &[f32], mut left: f64) -> usize {
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = index;
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    last
}

fn scale(row: &mut [f32], factor: f64) {
    for x in row {
        *x *= factor as f32;
    }
}
