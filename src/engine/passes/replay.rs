//! Block-wise replay: one forward pass that keeps each block's input, then the blocks from last to first, each loaded,
//! recomputed, differentiated and dropped.
//!
//! Peak memory is the embedding and head, one block with its gradients, and the hidden states.

use mlx_rs::Array;
use std::ops::Range;
use std::rc::Rc;

use super::collector::{Collector, Extent, Moments};
use super::forward::{FinalStates, Pass};
use super::head::{HeadBackward, Objective};
use super::states::{HiddenStates, StoredState};
use crate::engine::array::{to_vec, vector_jacobian_products};
use crate::engine::decoder::block::{Attended, Block};
use crate::engine::decoder::linear::Weight;
use crate::engine::decoder::load::Loader;
use crate::engine::decoder::mlp::Context;
use crate::engine::decoder::positions::Positions;
use crate::engine::decoder::router::Choice;
use crate::engine::streams::Streams;
use crate::error::Result;

/// Backward pass over the blocks, after a forward pass that kept each block's inputs.
pub(crate) struct Replay<'a> {
    loader: Loader<'a>,
    context: Context<'a>,
    streams: Streams,
    /// Last hidden states and head, until [`Self::leave_head`].
    last: Option<FinalStates<'a>>,
    store: Rc<HiddenStates>,
    /// E[x_j^2] of the linear layers' inputs, by block; the head's is last.
    importance: Vec<Moments>,
    /// Inputs of each block, by block and sequence; taken as the backward pass reaches the block.
    inputs: Vec<Vec<StoredState>>,
    /// Gradient of the objective with respect to the current block's output, by sequence.
    cotangents: Vec<StoredState>,
}

/// Gradient of a layer on one sequence: of its matrix, or of each expert's, [columns, rows]. Differentiation gives it
/// in this order.
pub(crate) struct Gradient {
    pub(crate) transposed: Vec<Array>,
}

impl<'a> Replay<'a> {
    /// Runs all sequences forward. `tick` is called once per block.
    pub(crate) fn forward(mut pass: Pass<'a>, tick: &dyn Fn()) -> Result<Self> {
        let (mut inputs, mut importance) = (Vec::new(), Vec::new());
        for index in 0..pass.context.spec.blocks.len() {
            let block = Block::load_for_many(&pass.loader, pass.context, index)?;
            let mut collector = Collector::new(Extent::Diagonal);
            inputs.push(pass.advance(&block, Some(&mut collector))?);
            importance.push(collector.take_moments()?);
            tick();
        }
        let (loader, store) = (pass.loader, Rc::clone(&pass.store));
        let last = pass.into_final()?;
        importance.push(last.head_moments(Extent::Diagonal)?);
        let (context, streams) = (last.context, last.streams);
        let last = Some(last);
        Ok(Self { loader, context, streams, last, store, importance, inputs, cotangents: Vec::new() })
    }

    /// Returns E[x_j^2] of the inputs of a block's linear layers, or of the head's.
    pub(crate) fn importance(&self, block: Option<usize>) -> &Moments {
        &self.importance[block.unwrap_or(self.importance.len() - 1)]
    }

    /// Runs the backward pass through the head. The returned value gives the head's own gradients, until
    /// [`Self::leave_head`].
    pub(crate) fn head<'o>(&mut self, objective: &'o Objective<'o>) -> Result<HeadBackward<'o>> {
        let mut errors = HeadBackward::new(objective);
        if let Some(last) = &self.last {
            for _ in 0..last.len() {
                crate::interrupt::check()?;
                self.cotangents.push(self.store.put(errors.cotangent(last)?)?);
            }
        }
        Ok(errors)
    }

    /// Hands the gradients of the head's `rows` to `each`, by sequence.
    pub(crate) fn head_rows(
        &self,
        errors: &HeadBackward<'_>,
        rows: &Range<usize>,
        mut each: impl FnMut(usize, Gradient) -> Result<()>,
    ) -> Result<()> {
        let Some(last) = &self.last else { return Ok(()) };
        for sequence in 0..last.len() {
            crate::interrupt::check()?;
            let transposed = errors.gradient(last, sequence, rows)?;
            each(sequence, Gradient { transposed: vec![transposed] })?;
        }
        Ok(())
    }

    /// Discards the head and its inputs.
    pub(crate) fn leave_head(&mut self) {
        if let Some(mut last) = self.last.take() {
            last.clear();
        }
    }

    /// Returns the mean squares over all tokens of the gradients with respect to the hidden values after the next block.
    pub(crate) fn cotangent_squares(&self) -> Result<Vec<f32>> {
        let mut sums = Vec::<f64>::new();
        let mut tokens = 0;
        for state in &self.cotangents {
            let rows = to_vec(&self.store.get(state)?)?;
            let hidden = self.context.spec.hidden_size;
            sums.resize(hidden, 0.0);
            tokens += rows.len() / hidden;
            for row in rows.chunks_exact(hidden) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
            }
        }
        Ok(sums.iter().map(|sum| (sum / tokens.max(1) as f64) as f32).collect())
    }

    /// Runs the backward pass through block `index` and hands the gradients of the layers at `paths` to `each`, in
    /// their order, by sequence.
    pub(crate) fn block(
        &mut self,
        index: usize,
        paths: &[&str],
        mut each: impl FnMut(usize, Vec<Gradient>) -> Result<()>,
    ) -> Result<()> {
        let context = self.context;
        let mut block = Block::load_for_many(&self.loader, context, index)?;
        let (mut weights, mut counts) = (Vec::new(), Vec::new());
        for path in paths {
            let linears = block.linears_mut(path);
            counts.push(linears.len());
            for linear in linears {
                weights.push(linear.weight.dense(context.dtype)?);
            }
        }
        let streams = self.streams;
        let cotangents = std::mem::take(&mut self.cotangents);
        let mut sequences = self.inputs.pop().unwrap_or_default().into_iter().zip(cotangents).peekable();
        while sequences.peek().is_some() {
            crate::interrupt::check()?;
            let mut batch = Vec::with_capacity(streams.count());
            for (x, cotangent) in sequences.by_ref().take(streams.count()) {
                batch.push((self.store.take(x)?, self.store.take(cotangent)?));
            }
            let choices = choose_experts(context, streams, &block, batch.iter().map(|(x, _)| x))?;
            let mut batch_gradients = Vec::with_capacity(batch.len());
            for (index, ((x, cotangent), choice)) in batch.into_iter().zip(&choices).enumerate() {
                let choice = choice.as_ref();
                batch_gradients.push(streams.on(index, || {
                    block_gradients(context, &block, choice, (paths, &weights), x, cotangent)
                })?);
            }
            streams.eval(batch_gradients.len(), batch_gradients.iter().flatten())?;
            for gradients in batch_gradients {
                let mut gradients = gradients.into_iter();
                let cotangent = gradients.next();
                let by_layer = counts.iter().map(|&count| Gradient {
                    transposed: gradients.by_ref().take(count).map(|gradient| gradient.t()).collect(),
                });
                each(self.cotangents.len(), by_layer.collect())?;
                self.cotangents.extend(cotangent.map(|array| self.store.put(array)).transpose()?);
            }
        }
        Ok(())
    }
}

/// Chooses the experts of each of the inputs `xs` [batch, tokens, hidden], before anything is differentiated; `None` where
/// the MLP has none. Evaluates.
pub(crate) fn choose_experts<'x>(
    context: Context<'_>,
    streams: Streams,
    block: &Block,
    xs: impl Iterator<Item = &'x Array>,
) -> Result<Vec<Option<Choice>>> {
    if block.router.is_none() {
        return Ok(xs.map(|_| None).collect());
    }
    let mut attended = Vec::new();
    for (index, x) in xs.enumerate() {
        let mut positions = Positions::new(context.spec, 0, x.shape()[1] as usize);
        attended.push(streams.on(index, || block.attend(context, x, &mut positions, None, &mut |_, _| {}))?);
    }
    streams.eval(attended.len(), attended.iter().flat_map(Attended::arrays))?;
    attended.iter().map(|attended| block.choose(attended)).collect()
}

/// Returns the gradients with respect to the block's input and the weights of the layers at `paths`, not evaluated yet.
fn block_gradients(
    context: Context<'_>,
    block: &Block,
    choice: Option<&Choice>,
    (paths, weights): (&[&str], &[Array]),
    x: Array,
    cotangent: Array,
) -> Result<Vec<Array>> {
    let tokens = x.shape()[1] as usize;
    let mut primals = vec![x];
    primals.extend_from_slice(weights);
    vector_jacobian_products(
        |primals| {
            let mut block = block.clone();
            let mut weights = primals[1..].iter();
            for path in paths {
                for (linear, weight) in block.linears_mut(path).iter_mut().zip(weights.by_ref()) {
                    linear.weight = Weight::Float(weight.clone());
                }
            }
            let mut positions = Positions::new(context.spec, 0, tokens);
            block.forward_chosen(context, &primals[0], &mut positions, choice)
        },
        &primals,
        cotangent,
    )
}
