//! Block-wise replay: one forward pass that keeps each block's input, then the blocks from last to first, each loaded,
//! recomputed, differentiated and dropped.
//!
//! Peak memory is the embedding and head, one block with its gradients, and the hidden states.

use mlx_rs::Array;
use mlx_rs::transforms::{eval, fallible_vjp};
use rayon::prelude::*;

use super::array::{as_slice, from_tokens, from_vec, slice, to_vec};
use super::attention::Positions;
use super::block::{Block, Context};
use super::linear::Weight;
use super::load::Loader;
use super::model::Ends;
use crate::error::{Error, Result};
use crate::sample::categorical;
use crate::spec::Role;

/// Values of logits that are held at a time.
const LOGITS: usize = 1 << 24;

/// The hidden states of all sequences.
pub(super) struct Replay<'a> {
    loader: Loader<'a>,
    context: Context<'a>,
    ends: Ends,
    /// Inputs of each block, by block and sequence; given up as the replay comes by.
    inputs: Vec<Vec<Array>>,
    /// Gradient of the log-likelihood with respect to the current block's output, by sequence.
    cotangents: Vec<Array>,
}

/// One matrix's gradient on one sequence.
pub(super) struct Gradient {
    pub(super) role: Role,
    pub(super) gradient: Array,
}

impl<'a> Replay<'a> {
    /// Runs all `sequences` forward. `tick` is called once a block.
    pub(super) fn forward(
        loader: Loader<'a>,
        context: Context<'a>,
        sequences: &[Vec<u32>],
        tick: &dyn Fn(),
    ) -> Result<Self> {
        let ends = Ends::load(&loader)?;
        let mut hidden: Vec<Array> = Vec::new();
        for tokens in sequences {
            let embedded = ends.embed(&from_tokens(tokens), context.dtype)?;
            eval([&embedded])?;
            hidden.push(embedded);
        }
        let mut inputs = Vec::new();
        for index in 0..context.spec.layers.len() {
            crate::interrupt::check()?;
            let block = Block::load(&loader, index)?;
            let mut outputs = Vec::new();
            for x in &hidden {
                let mut positions = Positions::new(context.spec, 0, x.shape()[1] as usize);
                let y = block.forward(context, x, &mut positions, None)?;
                eval([&y])?;
                outputs.push(y);
            }
            inputs.push(std::mem::replace(&mut hidden, outputs));
            tick();
        }
        Ok(Self { loader, context, ends, inputs, cotangents: hidden })
    }

    /// Through the head: turns the last hidden states into gradients of sum_t log p(y_t), with labels y_t drawn from
    /// the model's own distribution, and hands the head's own gradient of each sequence to `each` if `wanted`.
    pub(super) fn head(
        &mut self,
        seed: u64,
        wanted: bool,
        mut each: impl FnMut(usize, Gradient) -> Result<()>,
    ) -> Result<()> {
        for index in 0..self.cotangents.len() {
            crate::interrupt::check()?;
            let hidden = self.cotangents[index].clone();
            let (cotangent, gradient) = self.head_of(&hidden, seed ^ ((index as u64 + 1) << 32), wanted)?;
            self.cotangents[index] = cotangent;
            if let Some(gradient) = gradient {
                each(index, Gradient { role: Role::Head, gradient })?;
            }
        }
        Ok(())
    }

    fn head_of(&self, hidden: &Array, seed: u64, wanted: bool) -> Result<(Array, Option<Array>)> {
        let tokens = hidden.shape()[1] as usize;
        let step = (LOGITS / self.context.spec.vocab_size).clamp(1, tokens);
        let (mut parts, mut total): (Vec<Array>, Option<Array>) = (Vec::new(), None);
        for start in (0..tokens).step_by(step) {
            let part = slice(hidden, 1, start, (start + step).min(tokens))?;
            let logits = self.ends.logits(self.context, &part)?;
            let shape: Vec<usize> = logits.shape().iter().map(|&n| n as usize).collect();
            let mut values = to_vec(&logits)?;
            drop(logits);
            score(&mut values, self.context.spec.vocab_size, seed, start);
            let cotangent = from_vec(values, &shape).as_dtype(part.dtype())?;
            let mut primals = vec![part];
            if wanted {
                primals.push(self.ends.head().dense(self.context.dtype)?);
            }
            let (_, mut gradients) = fallible_vjp(
                |primals: &[Array]| {
                    let head = primals.get(1).map(|weight| Weight::Float(weight.clone()));
                    let ends = Ends {
                        embed: self.ends.embed.clone(),
                        norm: self.ends.norm.clone(),
                        head: head.or_else(|| self.ends.head.clone()),
                    };
                    let logits = ends.logits(self.context, &primals[0]).map_err(|e| exception(&e))?;
                    Ok(vec![logits])
                },
                &primals,
                &[cotangent],
            )?;
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
        let mut block = Block::load(&self.loader, index)?;
        let mut weights = Vec::new();
        for role in roles {
            if let Some(linear) = block.linear_mut(*role) {
                weights.push(linear.weight.dense(self.context.dtype)?);
            }
        }
        let inputs = self.inputs.pop().unwrap_or_default();
        for (sequence, x) in inputs.into_iter().enumerate() {
            crate::interrupt::check()?;
            let gradients = self.block_of(&block, roles, &weights, x, &self.cotangents[sequence])?;
            let mut gradients = gradients.into_iter();
            if let Some(cotangent) = gradients.next() {
                self.cotangents[sequence] = cotangent;
            }
            let named = roles.iter().zip(gradients).map(|(&role, gradient)| Gradient { role, gradient });
            each(sequence, named.collect())?;
        }
        Ok(())
    }

    /// Gradients with respect to the block's input and the `weights`.
    fn block_of(
        &self,
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
                let mut positions = Positions::new(self.context.spec, 0, tokens);
                let y = block
                    .forward(self.context, &primals[0], &mut positions, None)
                    .map_err(|e| exception(&e))?;
                Ok(vec![y])
            },
            &primals,
            std::slice::from_ref(cotangent),
        )?;
        eval(&gradients)?;
        Ok(gradients)
    }
}

fn exception(error: &Error) -> mlx_rs::error::Exception {
    mlx_rs::error::Exception::custom(error.to_string())
}

/// Turns rows of logits into gradients of log p(y) with respect to them, onehot(y) - softmax, with y drawn.
fn score(logits: &mut [f32], vocabulary: usize, seed: u64, first: usize) {
    logits.par_chunks_mut(vocabulary).enumerate().for_each(|(row, logits)| {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add((first + row) as u64));
        let label = categorical(logits, rng.f64()) as usize;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for x in logits.iter_mut() {
            *x = (*x - largest).exp();
        }
        let total: f64 = logits.iter().map(|&x| f64::from(x)).sum();
        let scale = (1.0 / total) as f32;
        for x in logits.iter_mut() {
            *x *= -scale;
        }
        logits[label] += 1.0;
    });
}

/// `sum += gradient^2`, elementwise; fails on values that are not finite.
pub(super) fn add_squares(sum: &mut [f32], gradient: &Array) -> Result<bool> {
    let gradient = gradient.as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
    let values = as_slice(&gradient)?;
    let finite = sum
        .par_chunks_mut(1 << 16)
        .zip(values.par_chunks(1 << 16))
        .map(|(sum, values)| {
            let mut total = 0.0f32;
            for (s, g) in sum.iter_mut().zip(values) {
                *s += g * g;
                total += *s;
            }
            total.is_finite()
        })
        .reduce(|| true, |a, b| a && b);
    Ok(finite)
}
