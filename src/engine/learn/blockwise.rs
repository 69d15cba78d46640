//! A quantized model that learns block by block, as EfficientQAT's first phase does (arXiv:2407.11062): each block to the
//! outputs of the float one, on the inputs that the learned blocks before it give. Only one block is in memory.
//!
//! Errors of a hidden value count as much as they move the loss: by the mean square of the float model's gradient there.

use mlx_rs::Array;
use mlx_rs::ops::concatenate;

use super::learning::{Learners, LearningBlock, LearningTensors, weighted_error};
use super::student::{add_gradient, sequences_per_pass};
use crate::engine::array::{from_vec, to_vec};
use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::{Loader, Tuned, Values};
use crate::engine::passes::forward::{Pass, forward};
use crate::engine::passes::head::Objective;
use crate::engine::passes::replay::Replay;
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::numerics::statistics::mean;

/// Measures how much the hidden values after each block matter: by block, the mean squares of the gradients of the
/// log-likelihood of labels that the model itself draws, one for each of the hidden size. `tick` is called for each block, there
/// and back.
pub fn output_importance(
    engine: &Engine,
    source: &SourceModel,
    sequences: &[Vec<u32>],
    seed: u64,
    memory: u64,
    tick: &dyn Fn(),
) -> Result<Vec<Vec<f32>>> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let mut replay = Replay::forward(Pass::embed(engine, loader, sequences, 1, memory)?, tick)?;
    replay.head(&Objective::Likelihood { seed })?;
    replay.leave_head();
    let blocks = source.spec().blocks.len();
    let mut importance = Vec::with_capacity(blocks);
    for index in (0..blocks).rev() {
        importance.push(replay.cotangent_squares()?);
        if index > 0 {
            replay.block(index, &[], |_, _| Ok(()))?;
        }
        tick();
    }
    importance.reverse();
    Ok(importance)
}

/// The float and the quantized model on their way through the blocks, with the sequences' hidden states of both.
pub struct Blockwise<'a> {
    learners: Learners,
    float: Pass<'a>,
    student: Pass<'a>,
    importance: Vec<Vec<f32>>,
    /// Sequences whose gradients are computed at once.
    sequences_at_once: usize,
    /// Block that learns.
    index: usize,
    tensors: LearningTensors,
}

impl<'a> Blockwise<'a> {
    /// Embeds the `sequences` for `source` and its quantized `student`. `importance` is [`output_importance`]. Each of the two
    /// keeps up to half of `memory` bytes of hidden states in memory.
    pub fn new(
        engine: &Engine,
        (source, student): (&'a SourceModel, &'a SourceModel),
        sequences: &[Vec<u32>],
        learners: Learners,
        importance: Vec<Vec<f32>>,
        memory: u64,
    ) -> Result<Self> {
        let embed = |model| {
            let loader = Loader::new(model, Dtype::F32);
            Pass::embed(engine, loader, sequences, 1, memory / 2)
        };
        let tensors = LearningTensors::new(student, 0, &learners);
        Ok(Self {
            float: embed(source)?,
            student: embed(student)?,
            learners,
            importance,
            sequences_at_once: sequences_per_pass(sequences),
            index: 0,
            tensors,
        })
    }

    /// Returns the names of the tensors that learn in the present block.
    pub fn names(&self) -> Vec<String> {
        self.tensors.names().collect()
    }

    /// Computes what the float block gives: from here on, what the quantized one is to give.
    pub fn prepare(&mut self) -> Result<()> {
        let block = Block::load_for_many(&self.float.loader, self.float.context, self.index)?;
        let inputs = std::mem::take(&mut self.float.states);
        self.float.replace(inputs, &block)
    }

    /// Computes the gradients of the mean weighted squared error on the `chosen` sequences, which have one length.
    pub fn gradients(&self, values: Tuned<'_>, chosen: &[usize]) -> Result<Values> {
        let loader = Loader { tuned: Some(values), ..self.student.loader };
        let block = LearningBlock::load(&loader, self.student.context, self.index, &self.tensors)?;
        let mut gradients = Values::new();
        for part in chosen.chunks(self.sequences_at_once) {
            let (x, target) = (concatenated(&self.student, part)?, concatenated(&self.float, part)?);
            let share = part.len() as f32 / chosen.len() as f32;
            let of_part = block.gradients_towards(x, &target, &self.weights(), share)?;
            for (name, gradient) in self.tensors.names().zip(&of_part) {
                add_gradient(&mut gradients, name, gradient)?;
            }
        }
        Ok(gradients)
    }

    /// Computes the mean weighted squared error on the sequences `watched`, with codes and scales as they would be stored.
    pub fn error(&self, values: Tuned<'_>, watched: std::ops::Range<usize>) -> Result<f64> {
        let Pass { context, streams, store, states, .. } = &self.student;
        let loader = Loader { tuned: Some(values), ..self.student.loader };
        let block = Block::load_for_many(&loader, *context, self.index)?;
        let weights = self.weights();
        let mut errors = Vec::new();
        for part in watched.collect::<Vec<_>>().chunks(streams.count()) {
            let inputs = part.iter().map(|&index| store.get(&states[index])).collect::<Result<Vec<_>>>()?;
            for (y, &index) in forward(*context, *streams, &block, &inputs, None)?.iter().zip(part) {
                let target = self.float.store.get(&self.float.states[index])?;
                errors.push(f64::from(to_vec(&weighted_error(y, &target, &weights)?)?[0]));
            }
        }
        Ok(mean(&errors))
    }

    /// Takes the present block with these `values`, and goes on to the next.
    pub fn advance(&mut self, values: Tuned<'_>) -> Result<()> {
        let loader = Loader { tuned: Some(values), ..self.student.loader };
        let block = Block::load_for_many(&loader, self.student.context, self.index)?;
        let inputs = std::mem::take(&mut self.student.states);
        self.student.replace(inputs, &block)?;
        self.index += 1;
        if self.index < self.importance.len() {
            self.tensors = LearningTensors::new(self.student.loader.source, self.index, &self.learners);
        }
        Ok(())
    }

    /// Weights of the hidden values after the present block, with a mean of 1.
    fn weights(&self) -> Array {
        let importance = &self.importance[self.index];
        let mean = importance.iter().sum::<f32>() / importance.len().max(1) as f32;
        let factor = 1.0 / mean.max(f32::MIN_POSITIVE);
        from_vec(importance.iter().map(|value| value * factor).collect(), &[importance.len()])
    }
}

/// Returns the states of the `chosen` sequences as one array [sequences, tokens, hidden].
fn concatenated(pass: &Pass<'_>, chosen: &[usize]) -> Result<Array> {
    let states = chosen.iter().map(|&index| pass.store.get(&pass.states[index]));
    Ok(concatenate(&states.collect::<Result<Vec<_>>>()?, 0)?)
}
