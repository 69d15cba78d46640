//! Backward pass through the head: cotangents of the last hidden states, and the head's own gradients.
//!
//! A head may be the largest matrix by far. Its gradients are computed some rows at a time: what is stored per position
//! is enough to compute a part of its logits' gradients again.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use rayon::prelude::*;
use std::ops::Range;

use super::forward::FinalStates;
use crate::engine::array::{from_vec, slice, to_vec, vector_jacobian_products};
use crate::engine::decoder::model::Head;
use crate::error::Result;
use crate::numerics::lanes;

/// Function that is differentiated, summed over the tokens of a sequence.
pub(crate) enum Objective<'a> {
    /// log p(y_t), with labels y_t drawn from the model's own distribution: its squares are the Fisher information.
    Likelihood { seed: u64 },
    /// The KL divergence of the model from the reference with these last hidden states.
    Divergence(&'a FinalStates<'a>),
}

/// Distribution over the vocabulary: softmax of its logits.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    largest: f32,
    /// Sum of exp(logit - largest).
    total: f64,
}

impl Softmax {
    /// Turns logits into probabilities.
    fn of(logits: &mut [f32]) -> Self {
        let largest = lanes::largest(logits);
        let this = Self { largest, total: lanes::exponentials(logits, largest) };
        scale(logits, 1.0 / this.total);
        this
    }

    /// Turns a part of the logits into probabilities.
    fn of_part(self, logits: &mut [f32]) {
        lanes::exponentials(logits, self.largest);
        scale(logits, 1.0 / self.total);
    }
}

/// Values stored per position to compute gradients of its logits again.
#[derive(Debug, Clone, Copy)]
enum Position {
    Sampled { model: Softmax, label: usize },
    Compared { model: Softmax, target: Softmax },
}

/// Backward pass of some sequences through the head.
pub(crate) struct HeadBackward<'a> {
    objective: &'a Objective<'a>,
    positions: Vec<Vec<Position>>,
}

impl<'a> HeadBackward<'a> {
    pub(crate) fn new(objective: &'a Objective<'a>) -> Self {
        Self { objective, positions: Vec::new() }
    }

    /// Computes the cotangent of the last hidden states of the next sequence.
    pub(crate) fn cotangent(&mut self, last: &FinalStates<'_>) -> Result<Array> {
        let sequence = self.positions.len();
        let hidden = last.state(sequence)?;
        let vocabulary = last.context.spec.vocab_size;
        let (mut parts, mut positions) = (Vec::new(), Vec::new());
        for part in parts_of(last, &hidden) {
            let mut values = last.logits(sequence, part.start, part.end)?;
            positions.extend(match self.objective {
                Objective::Likelihood { seed } => {
                    score_gradients(&mut values, vocabulary, seed ^ ((sequence as u64 + 1) << 32), part.start)
                }
                Objective::Divergence(target) => {
                    let target = target.logits(sequence, part.start, part.end)?;
                    divergence_gradients(&mut values, target, vocabulary)
                }
            });
            let hidden = slice(&hidden, 1, part.start, part.end)?;
            let cotangent = from_vec(values, &[1, part.len(), vocabulary]).as_dtype(hidden.dtype())?;
            let gradient = hidden_gradient(&last.head, hidden, cotangent)?;
            eval([&gradient])?;
            parts.push(gradient);
        }
        let cotangent = mlx_rs::ops::concatenate(&parts, 1)?;
        eval([&cotangent])?;
        self.positions.push(positions);
        Ok(cotangent)
    }

    /// Computes the gradient of the head's `rows` on a sequence whose cotangent was computed, [columns, rows].
    pub(crate) fn gradient(
        &self,
        last: &FinalStates<'_>,
        sequence: usize,
        rows: &Range<usize>,
    ) -> Result<Array> {
        let context = last.context;
        let weight = slice(&last.head.weight.dense(context.dtype)?, 0, rows.start, rows.end)?;
        let hidden = last.state(sequence)?;
        let mut total: Option<Array> = None;
        for part in parts_of(last, &hidden) {
            let normed = last.head.normed(&slice(&hidden, 1, part.start, part.end)?)?;
            let normed = normed.reshape(&[part.len() as i32, -1])?;
            let products = normed.matmul(weight.t())?;
            let mut values = to_vec(&last.head.shaped(products.clone(), Some(rows))?)?;
            self.part(sequence, &part, rows, &mut values)?;
            let errors = from_vec(values, &[part.len(), rows.len()]).as_dtype(normed.dtype())?;
            let errors = last.head.unshaped(&products, rows, errors)?;
            let gradient = normed.t().matmul(&errors)?;
            total = Some(match total {
                Some(total) => total.add(gradient)?,
                None => gradient,
            });
            eval(&total)?;
        }
        Ok(total.unwrap_or_else(|| Array::from_f32(0.0)))
    }

    /// Turns logits of some rows of the head into gradients with respect to them.
    fn part(
        &self,
        sequence: usize,
        part: &Range<usize>,
        rows: &Range<usize>,
        logits: &mut [f32],
    ) -> Result<()> {
        let mut target_logits = match self.objective {
            Objective::Likelihood { .. } => Vec::new(),
            Objective::Divergence(target) => {
                let weight =
                    slice(&target.head.weight.dense(target.context.dtype)?, 0, rows.start, rows.end)?;
                let hidden = slice(&target.state(sequence)?, 1, part.start, part.end)?;
                let products = target.head.normed(&hidden)?.matmul(weight.t())?;
                to_vec(&target.head.shaped(products, Some(rows))?)?
            }
        };
        let positions = &self.positions[sequence][part.clone()];
        let logits = logits.par_chunks_mut(rows.len()).zip(positions);
        match self.objective {
            Objective::Likelihood { .. } => logits.for_each(|(logits, position)| {
                if let Position::Sampled { model, label } = *position {
                    model.of_part(logits);
                    scale(logits, -1.0);
                    if rows.contains(&label) {
                        logits[label - rows.start] += 1.0;
                    }
                }
            }),
            Objective::Divergence(_) => {
                let pairs = logits.zip(target_logits.par_chunks_mut(rows.len()));
                pairs.for_each(|((logits, position), target_logits)| {
                    if let Position::Compared { model, target } = *position {
                        model.of_part(logits);
                        target.of_part(target_logits);
                        logits.iter_mut().zip(target_logits).for_each(|(x, t)| *x -= *t);
                    }
                });
            }
        }
        Ok(())
    }
}

/// Returns ranges of positions whose logits are in memory at one time.
fn parts_of(last: &FinalStates<'_>, hidden: &Array) -> impl Iterator<Item = Range<usize>> {
    let (tokens, step) = (hidden.shape()[1] as usize, last.positions_at_once());
    (0..tokens).step_by(step).map(move |start| start..(start + step).min(tokens))
}

/// Computes the gradient with respect to the hidden states `part`.
fn hidden_gradient(head: &Head, part: Array, cotangent: Array) -> Result<Array> {
    let logits = |primals: &[Array]| head.logits(&primals[0]);
    Ok(vector_jacobian_products(logits, &[part], cotangent)?.swap_remove(0))
}

/// Turns rows of logits into gradients of log p(y) with respect to them, onehot(y) - softmax, with a sampled label y.
fn score_gradients(logits: &mut [f32], vocabulary: usize, seed: u64, first: usize) -> Vec<Position> {
    let rows = logits.par_chunks_mut(vocabulary).enumerate();
    rows.map(|(row, logits)| {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add((first + row) as u64));
        let model = Softmax::of(logits);
        let label = sample_label(logits, rng.f64());
        scale(logits, -1.0);
        logits[label] += 1.0;
        Position::Sampled { model, label }
    })
    .collect()
}

/// Turns rows of logits z into gradients of KL(target || softmax z) with respect to them, softmax z - target.
fn divergence_gradients(logits: &mut [f32], mut target: Vec<f32>, vocabulary: usize) -> Vec<Position> {
    let rows = logits.par_chunks_mut(vocabulary).zip(target.par_chunks_mut(vocabulary));
    rows.map(|(logits, target_logits)| {
        let (model, target) = (Softmax::of(logits), Softmax::of(target_logits));
        logits.iter_mut().zip(target_logits).for_each(|(x, t)| *x -= *t);
        Position::Compared { model, target }
    })
    .collect()
}

/// Returns the first index at which the sum of weights exceeds `remaining`.
fn sample_label(weights: &[f32], mut remaining: f64) -> usize {
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        last = index;
        remaining -= f64::from(weight);
        if remaining < 0.0 {
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
