//! A quantized model that learns from the float one: gradients of the KL divergence with respect to the scales, biases and
//! codes of its layers, and to its norms.
//!
//! With W = scale q + bias for each group, the gradient of the scale is the gradient of W times the codes, summed over the
//! group, the gradient of the bias is that of W, summed over the group, and that of a code is the gradient of W times the
//! scale. Computed block by block,
//! forward and backward, as in [`crate::engine::passes::replay`]: the float weights of one block are in memory at a
//! time. The float model is represented by its last hidden states, from which a row of logits is one product.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use super::learning::{Learners, LearningBlock, LearningHead, LearningTensors, divergence, head_names};
use crate::engine::array::{from_vec, slice, to_vec};
use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::{Loader, Tuned, Values};
use crate::engine::passes::forward::{FinalStates, Pass, run_forward};
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::source::SourceModel;
use crate::numerics::divergence;
use crate::numerics::dtype::Dtype;

/// Sequences, all of one length, with the float model's last hidden states for them.
pub struct Target<'a> {
    sequences: &'a [Vec<u32>],
    float: FinalStates<'a>,
}

impl<'a> Target<'a> {
    /// Runs the float model of `source` on `sequences`. Past `memory` bytes its last hidden states go to a temporary
    /// file. `tick` is called once per block.
    pub fn new(
        engine: &Engine,
        source: &'a SourceModel,
        sequences: &'a [Vec<u32>],
        memory: u64,
        tick: &dyn Fn(),
    ) -> Result<Self> {
        let batch = sequences_per_pass(sequences);
        Ok(Self { sequences, float: run_forward(engine, source, sequences, batch, memory, tick)? })
    }

    /// Returns the number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// True if there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
}

/// Returns how many sequences of this length go through a block in one array.
pub(crate) fn sequences_per_pass(sequences: &[Vec<u32>]) -> usize {
    (TOKENS_PER_PASS / sequences.first().map_or(1, Vec::len).max(1)).max(1)
}

/// Quantized model in its folder, and which of its tensors learn.
pub struct Student<'a> {
    engine: &'a Engine,
    loader: Loader<'a>,
    memory: u64,
    learners: Learners,
    blocks: Vec<LearningTensors>,
}

impl<'a> Student<'a> {
    /// Makes a student of `source` in which the `learners` learn. Past `memory` bytes
    /// hidden states go to a temporary file. Computed in float32.
    pub fn new(engine: &'a Engine, source: &'a SourceModel, learners: Learners, memory: u64) -> Self {
        let blocks = 0..source.spec().blocks.len();
        let blocks = blocks.map(|index| LearningTensors::new(source, index, &learners)).collect();
        Self { engine, loader: Loader::new(source, Dtype::F32), memory, learners, blocks }
    }

    /// Returns the names of the tensors that learn.
    pub fn names(&self) -> Vec<String> {
        let names = self.blocks.iter().flat_map(LearningTensors::names);
        names.chain(head_names(self.loader.source, &self.learners)).collect()
    }

    /// Computes KL(float || student) of every token of the `target`, in nats, with these values of the tensors that
    /// learn.
    pub fn divergences(&self, values: Tuned<'_>, target: &Target<'_>) -> Result<Vec<f64>> {
        let loader = Loader { tuned: Some(values), ..self.loader };
        let sequences = target.sequences;
        let batch = sequences_per_pass(sequences);
        let student = Pass::embed(self.engine, loader, sequences, batch, self.memory)?.finish(&|| {})?;
        let mut divergences = Vec::new();
        for (sequence, tokens) in sequences.iter().enumerate() {
            for start in (0..tokens.len()).step_by(student.positions_at_once()) {
                let end = (start + student.positions_at_once()).min(tokens.len());
                let reference = target.float.logits(sequence, start, end)?;
                let logits = student.logits(sequence, start, end)?;
                divergences.extend(divergence::kl_divergences(&logits, &reference, self.vocabulary()));
            }
        }
        Ok(divergences)
    }

    /// Computes the mean over the tokens of the `target`'s sequences `chosen` of temperature^2 KL(float || student),
    /// both at this temperature. Its gradients with respect to the `values` of the tensors that learn are handed to
    /// `finished`, those of the head first, then those of each block, from the last to the first: they are not in memory
    /// all at one time.
    pub fn gradients(
        &self,
        values: Tuned<'_>,
        target: &Target<'_>,
        chosen: &[usize],
        temperature: f64,
        finished: &mut dyn FnMut(&Values),
    ) -> Result<f64> {
        let loader = Loader { tuned: Some(values), ..self.loader };
        let sequences: Vec<Vec<u32>> =
            chosen.iter().filter_map(|&index| target.sequences.get(index).cloned()).collect();
        let mut pass =
            Pass::embed(self.engine, loader, &sequences, sequences_per_pass(&sequences), self.memory)?;
        let context = pass.context;
        let mut inputs = Vec::new();
        for index in 0..self.blocks.len() {
            let block = Block::load_for_many(&loader, context, index)?;
            inputs.push(pass.advance(&block, None)?);
        }
        let store = Rc::clone(&pass.store);
        let mut gradients = Values::new();
        let head = LearningHead::new(&loader, pass.into_final()?, &self.learners)?;
        let (loss, mut cotangents) = head.pass(target, chosen, temperature, &mut gradients)?;
        drop(head);
        finished(&gradients);
        for (index, tensors) in self.blocks.iter().enumerate().rev() {
            let block = LearningBlock::load(&loader, context, index, tensors)?;
            let states = inputs.pop().unwrap_or_default();
            gradients.clear();
            for (state, cotangent) in states.into_iter().zip(&mut cotangents) {
                crate::interrupt::check()?;
                let mut block_gradients = block.gradients(store.take(state)?, cotangent)?.into_iter();
                if let Some(input) = block_gradients.next() {
                    *cotangent = input;
                }
                for (name, gradient) in tensors.names().zip(block_gradients) {
                    add_gradient(&mut gradients, name, &gradient)?;
                }
            }
            finished(&gradients);
        }
        Ok(loss)
    }

    fn vocabulary(&self) -> usize {
        self.loader.source.spec().vocab_size
    }
}

impl LearningHead<'_> {
    /// Computes the loss and its gradients with respect to the last hidden states, grouped as they go through the
    /// blocks. Adds the head's own to `gradients`.
    fn pass(
        &self,
        target: &Target<'_>,
        chosen: &[usize],
        temperature: f64,
        gradients: &mut Values,
    ) -> Result<(f64, Vec<Array>)> {
        let last = &self.last;
        let vocabulary = last.context.spec.vocab_size;
        let tokens: usize = chosen.iter().filter_map(|&i| target.sequences.get(i)).map(Vec::len).sum();
        let (mut loss, mut rows) = (0.0, Vec::new());
        for (sequence, &index) in chosen.iter().enumerate() {
            crate::interrupt::check()?;
            let hidden = last.state(sequence)?;
            let length = hidden.shape()[1] as usize;
            let mut parts = Vec::new();
            for start in (0..length).step_by(last.positions_at_once()) {
                let end = (start + last.positions_at_once()).min(length);
                let mut logits = last.logits(sequence, start, end)?;
                let mut reference = target.float.logits(index, start, end)?;
                loss += divergence(&mut logits, &mut reference, vocabulary, temperature);
                for value in &mut logits {
                    *value /= tokens as f32;
                }
                let cotangent = from_vec(logits, &[1, end - start, vocabulary]);
                let mut head_gradients =
                    self.gradients(slice(&hidden, 1, start, end)?, cotangent)?.into_iter();
                parts.extend(head_gradients.next());
                for (name, gradient) in self.names.iter().zip(head_gradients) {
                    add_gradient(gradients, name.clone(), &gradient)?;
                }
            }
            rows.push(mlx_rs::ops::concatenate(&parts, 1)?);
        }
        let batches = rows.chunks(sequences_per_pass(target.sequences));
        let cotangents =
            batches.map(|rows| mlx_rs::ops::concatenate(rows, 0)).collect::<Result<Vec<Array>, _>>()?;
        eval(&cotangents)?;
        Ok((loss / tokens.max(1) as f64, cotangents))
    }
}

/// Adds `gradient` to that of the tensor called `name`.
pub(crate) fn add_gradient(gradients: &mut Values, name: String, gradient: &Array) -> Result<()> {
    let values = to_vec(gradient)?;
    match gradients.entry(name) {
        Entry::Vacant(entry) => drop(entry.insert(values)),
        Entry::Occupied(mut entry) => entry.get_mut().iter_mut().zip(values).for_each(|(sum, g)| *sum += g),
    }
    Ok(())
}

/// Tokens of a step that go through a block in one array.
pub const TOKENS_PER_PASS: usize = 1024;
