//! A quantized model that learns from the float one: gradients of the KL divergence with respect to the scales and biases
//! of its affine layers, and to its norms.
//!
//! Codes stay. With W = scale q + bias for each group, the gradients are those of W times the codes, summed over the group,
//! and summed. Block by block, forward and back, as in [`super::replay`]: of the float weights no more than one block's are
//! in memory. The float model is there as its last hidden states, from which a row of logits is one product.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use super::Engine;
use super::array::{from_vec, slice, to_vec};
use super::block::Block;
use super::forward::{FinalStates, Pass, run_forward};
use super::learning::{FINAL_NORM, LearningBlock, LearningHead, Members, divergence};
use super::load::{Loader, Tuned};
use crate::checkpoint::{Dtype, SourceModel};
use crate::error::Result;
use crate::evaluation;

/// Tokens that go through a block together.
const TOGETHER: usize = 1024;

/// Sequences, all of one length, and what the float model makes of them.
pub struct Target<'a> {
    sequences: &'a [Vec<u32>],
    float: FinalStates<'a>,
}

impl<'a> Target<'a> {
    /// Runs the float model on `sequences`. Past `memory` bytes its last hidden states go to a temporary file.
    pub fn new(
        engine: &Engine,
        source: &'a SourceModel,
        sequences: &'a [Vec<u32>],
        memory: u64,
        tick: &dyn Fn(),
    ) -> Result<Self> {
        let together = together(sequences);
        Ok(Self { sequences, float: run_forward(engine, source, sequences, together, memory, tick)? })
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
}

/// Sequences of this length that go through a block together.
fn together(sequences: &[Vec<u32>]) -> usize {
    (TOGETHER / sequences.first().map_or(1, Vec::len).max(1)).max(1)
}

/// A quantized model in its folder, and which of its tensors learn.
pub struct Student<'a> {
    engine: &'a Engine,
    loader: Loader<'a>,
    memory: u64,
    blocks: Vec<Members>,
    head: Option<String>,
    norms: bool,
}

impl<'a> Student<'a> {
    /// The affine layers of `source` whose paths are in `layers` learn, and all norms if `norms`. Past `memory` bytes hidden
    /// states go to a temporary file. Computed in float32.
    pub fn new(
        engine: &'a Engine,
        source: &'a SourceModel,
        layers: &BTreeSet<String>,
        norms: bool,
        memory: u64,
    ) -> Self {
        let learns = |path: &str| layers.contains(path).then(|| path.to_owned());
        let blocks = (0..source.spec().layers.len()).map(|index| Members::new(source, index, layers, norms));
        let head = if source.spec().tie_word_embeddings { None } else { learns(source.spec().head_name) };
        let loader = Loader::new(source, Dtype::F32);
        Self { engine, loader, memory, blocks: blocks.collect(), head, norms }
    }

    /// Names of the tensors that learn.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.blocks.iter().flat_map(Members::names).collect();
        names.extend(self.head.iter().flat_map(|path| [format!("{path}.scales"), format!("{path}.biases")]));
        names.extend(self.norms.then(|| FINAL_NORM.to_owned()));
        names
    }

    /// KL(float || student) of every token of the `target`, with these values of what learns.
    pub fn divergences(&self, values: &Tuned, target: &Target<'_>) -> Result<Vec<f64>> {
        let loader = Loader { tuned: Some(values), ..self.loader };
        let sequences = target.sequences;
        let found =
            Pass::embed(self.engine, loader, sequences, together(sequences), self.memory)?.finish(&|| {})?;
        let mut divergences = Vec::new();
        for (sequence, tokens) in sequences.iter().enumerate() {
            for start in (0..tokens.len()).step_by(found.positions_at_once()) {
                let end = (start + found.positions_at_once()).min(tokens.len());
                let reference = target.float.logits(sequence, start, end)?;
                let logits = found.logits(sequence, start, end)?;
                divergences.extend(evaluation::kl_divergences(&logits, &reference, self.vocabulary()));
            }
        }
        Ok(divergences)
    }

    /// Mean over the tokens of the `target`'s sequences `chosen` of temperature^2 KL(float || student), both at this
    /// temperature, and its gradients with respect to the `values` of what learns.
    pub fn gradients(
        &self,
        values: &Tuned,
        target: &Target<'_>,
        chosen: &[usize],
        temperature: f64,
    ) -> Result<(f64, Tuned)> {
        let loader = Loader { tuned: Some(values), ..self.loader };
        let sequences: Vec<Vec<u32>> =
            chosen.iter().filter_map(|&index| target.sequences.get(index).cloned()).collect();
        let streams = self.engine.streams_for(loader.source.spec(), &sequences);
        let together = together(&sequences).min(sequences.len().div_ceil(streams.count()).max(1));
        let mut pass = Pass::embed(self.engine, loader, &sequences, together, self.memory)?;
        let context = pass.context;
        let mut inputs = Vec::new();
        for index in 0..self.blocks.len() {
            let block = Block::load_for_many(&loader, context, index)?;
            inputs.push(pass.advance(&block, None)?);
        }
        let store = Rc::clone(&pass.store);
        let mut gradients = Tuned::new();
        let head = LearningHead::new(&loader, pass.into_final()?, self.head.as_deref(), self.norms)?;
        let (loss, mut cotangents) = head.pass(target, chosen, temperature, together, &mut gradients)?;
        for (index, members) in self.blocks.iter().enumerate().rev() {
            let block = LearningBlock::load(&loader, context, index, members)?;
            let mut kept = inputs.pop().unwrap_or_default().into_iter();
            for cotangents in cotangents.chunks_mut(streams.count()) {
                crate::interrupt::check()?;
                let mut found = Vec::with_capacity(cotangents.len());
                for (index, (cotangent, kept)) in cotangents.iter().zip(&mut kept).enumerate() {
                    let x = store.take(kept)?;
                    found.push(streams.on(index, || block.gradients(x, cotangent))?);
                }
                streams.eval(found.len(), found.iter().flatten())?;
                for (cotangent, found) in cotangents.iter_mut().zip(found) {
                    let mut found = found.into_iter();
                    if let Some(input) = found.next() {
                        *cotangent = input;
                    }
                    members
                        .names()
                        .zip(found)
                        .try_for_each(|(name, gradient)| add(&mut gradients, name, &gradient))?;
                }
            }
        }
        Ok((loss, gradients))
    }

    fn vocabulary(&self) -> usize {
        self.loader.source.spec().vocab_size
    }
}

impl LearningHead<'_> {
    /// The loss, and its gradients with respect to the last hidden states, so many sequences `together` as they go through
    /// the blocks.
    fn pass(
        &self,
        target: &Target<'_>,
        chosen: &[usize],
        temperature: f64,
        together: usize,
        gradients: &mut Tuned,
    ) -> Result<(f64, Vec<Array>)> {
        let (last, streams) = (&self.last, self.last.streams);
        let vocabulary = last.context.spec.vocab_size;
        let lengths = || chosen.iter().filter_map(|&index| target.sequences.get(index)).map(Vec::len);
        let (tokens, at_once) = (lengths().sum::<usize>(), last.positions_at_once());
        let parts: Vec<Part> = lengths()
            .enumerate()
            .flat_map(|(sequence, length)| {
                let part = move |start| Part { sequence, start, end: (start + at_once).min(length) };
                (0..length).step_by(at_once).map(part)
            })
            .collect();
        let (mut loss, mut rows) = (0.0, vec![Vec::new(); chosen.len()]);
        for parts in parts.chunks(streams.count()) {
            crate::interrupt::check()?;
            let mut logits = Vec::with_capacity(2 * parts.len());
            for (index, &Part { sequence, start, end }) in parts.iter().enumerate() {
                logits.extend(streams.on(index, || {
                    let reference = target.float.lazy_logits(chosen[sequence], start, end)?;
                    Ok([last.lazy_logits(sequence, start, end)?, reference])
                })?);
            }
            streams.eval(parts.len(), &logits)?;
            let mut found = Vec::with_capacity(parts.len());
            for (index, (part, logits)) in parts.iter().zip(logits.chunks(2)).enumerate() {
                let (mut cotangent, mut reference) = (to_vec(&logits[0])?, to_vec(&logits[1])?);
                loss += divergence(&mut cotangent, &mut reference, vocabulary, temperature);
                for value in &mut cotangent {
                    *value /= tokens as f32;
                }
                let hidden = slice(&last.state(part.sequence)?, 1, part.start, part.end)?;
                let cotangent = from_vec(cotangent, &[1, part.end - part.start, vocabulary]);
                found.push(streams.on(index, || self.gradients(hidden, cotangent))?);
            }
            streams.eval(parts.len(), found.iter().flatten())?;
            for (part, found) in parts.iter().zip(found) {
                let mut found = found.into_iter();
                rows[part.sequence].extend(found.next());
                self.names
                    .iter()
                    .zip(found)
                    .try_for_each(|(name, gradient)| add(gradients, name.clone(), &gradient))?;
            }
        }
        let whole = rows.iter().map(|parts| mlx_rs::ops::concatenate(parts, 1));
        let whole = whole.collect::<Result<Vec<Array>, _>>()?;
        let groups = whole.chunks(together).map(|rows| mlx_rs::ops::concatenate(rows, 0));
        let groups = groups.collect::<Result<Vec<Array>, _>>()?;
        eval(&groups)?;
        Ok((loss / tokens.max(1) as f64, groups))
    }
}

/// Positions of a sequence, the sequences counted within a step.
struct Part {
    sequence: usize,
    start: usize,
    end: usize,
}

/// Adds to the gradient of the tensor called `name`.
fn add(gradients: &mut Tuned, name: String, gradient: &Array) -> Result<()> {
    let found = to_vec(gradient)?;
    match gradients.entry(name) {
        Entry::Vacant(entry) => drop(entry.insert(found)),
        Entry::Occupied(mut entry) => entry.get_mut().iter_mut().zip(found).for_each(|(sum, g)| *sum += g),
    }
    Ok(())
}
