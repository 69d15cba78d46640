//! Forward pass of many sequences through a model that is never in memory as a whole: block after block, each loaded
//! once.

use mlx_rs::Array;
use mlx_rs::transforms::eval;
use std::rc::Rc;

use super::collector::Collector;
use super::states::{HiddenStates, StoredState};
use crate::engine::array::{slice, to_vec};
use crate::engine::decoder::block::{Attended, Block};
use crate::engine::decoder::embedding::{Embedding, check_length};
use crate::engine::decoder::load::Loader;
use crate::engine::decoder::mlp::{Context, Input, Nodes};
use crate::engine::decoder::model::Head;
use crate::engine::decoder::positions::Positions;
use crate::engine::runtime::Engine;
use crate::engine::streams::Streams;
use crate::error::{Error, Result};
use crate::models::source::SourceModel;
use crate::models::spec::DecoderSpec;

/// Most values of logits in memory at a time.
const LOGIT_VALUES: usize = 1 << 24;
/// Most positions whose logits are computed at once: a product with that many rows is as fast as a larger one.
const LOGIT_POSITIONS: usize = 256;

/// Runs the token `sequences` through `source`, up to `batch` at a time: on the GPU those of one length as one array,
/// on the CPU in parallel. Past `memory` bytes hidden states go to a temporary file. `tick` is called once per block.
pub fn run_forward<'a>(
    engine: &Engine,
    source: &'a SourceModel,
    sequences: &[Vec<u32>],
    batch: usize,
    memory: u64,
    tick: &dyn Fn(),
) -> Result<FinalStates<'a>> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let mut pass = Pass::embed(engine, loader, sequences, if engine.gpu { batch } else { 1 }, memory)?;
    pass.streams = pass.streams.at_most(batch);
    pass.finish(tick)
}

/// Hidden states of some sequences, on their way through the blocks. Sequences of one length may share an array.
pub(crate) struct Pass<'a> {
    pub(crate) loader: Loader<'a>,
    pub(crate) context: Context<'a>,
    pub(crate) streams: Streams,
    pub(crate) store: Rc<HiddenStates>,
    pub(crate) states: Vec<StoredState>,
    /// For each sequence, the index of its state and its row in it.
    places: Vec<(usize, usize)>,
}

impl<'a> Pass<'a> {
    /// Embeds the sequences, up to `batch` of one length in one array. Past `memory` bytes hidden states go to a
    /// temporary file.
    pub(crate) fn embed(
        engine: &Engine,
        loader: Loader<'a>,
        sequences: &[Vec<u32>],
        batch: usize,
        memory: u64,
    ) -> Result<Self> {
        let (spec, dtype) = (loader.source.spec(), loader.dtype);
        let context = Context { spec, dtype, on_gpu: engine.gpu, nodes: Nodes::Single };
        check_tokens(context.spec, sequences)?;
        crate::engine::memory::keep_pages(Some(loader.source.manifest().parameters()));
        let embed = Embedding::load(&loader)?;
        let store = Rc::new(HiddenStates::new(loader.dtype, memory));
        let (mut states, mut places) = (Vec::new(), Vec::new());
        for same_length in sequences.chunk_by(|a, b| a.len() == b.len()) {
            for batch in same_length.chunks(batch.max(1)) {
                let sizes = [batch.len() as i32, batch[0].len() as i32];
                let embedded = embed.rows(&Array::from_slice(&batch.concat(), &sizes), 0, context.dtype)?;
                eval([&embedded])?;
                places.extend((0..batch.len()).map(|row| (states.len(), row)));
                states.push(store.put(embedded)?);
            }
        }
        let streams = engine.streams_for(context.spec, sequences);
        Ok(Self { loader, context, streams, store, states, places })
    }

    /// Runs the states through `block` and returns its inputs, which stay stored. `collector` sees the inputs of its
    /// linear layers.
    pub(crate) fn advance(
        &mut self,
        block: &Block,
        mut collector: Option<&mut Collector>,
    ) -> Result<Vec<StoredState>> {
        let mut outputs = Vec::with_capacity(self.states.len());
        for states in self.states.chunks(self.streams.count()) {
            let inputs = states.iter().map(|state| self.store.get(state)).collect::<Result<Vec<_>>>()?;
            for y in forward(self.context, self.streams, block, &inputs, collector.as_deref_mut())? {
                outputs.push(self.store.put(y)?);
            }
        }
        Ok(std::mem::replace(&mut self.states, outputs))
    }

    /// Runs the states through all blocks without keeping their inputs. `tick` is called once per block.
    pub(crate) fn finish(mut self, tick: &dyn Fn()) -> Result<FinalStates<'a>> {
        for index in 0..self.context.spec.blocks.len() {
            let block = Block::load_for_many(&self.loader, self.context, index)?;
            let inputs = std::mem::take(&mut self.states);
            self.replace(inputs, &block)?;
            tick();
        }
        self.into_final()
    }

    /// Runs `inputs` through `block` and replaces them by its outputs.
    pub(crate) fn replace(&mut self, inputs: Vec<StoredState>, block: &Block) -> Result<()> {
        let mut inputs = inputs.into_iter().peekable();
        while inputs.peek().is_some() {
            let states = inputs.by_ref().take(self.streams.count());
            let arrays = states.map(|state| self.store.take(state)).collect::<Result<Vec<_>>>()?;
            for y in forward(self.context, self.streams, block, &arrays, None)? {
                self.states.push(self.store.put(y)?);
            }
        }
        Ok(())
    }

    /// Loads the head for the states, which went through the last block.
    pub(crate) fn into_final(self) -> Result<FinalStates<'a>> {
        let Self { loader, context, streams, store, states, places } = self;
        let mut head = Head::load(&loader)?;
        if !context.on_gpu {
            head.weight.decode(context.dtype)?;
        }
        Ok(FinalStates { context, head, streams, store, states, places })
    }
}

/// Last hidden states of some sequences, and the head: logits on demand, without the blocks.
pub struct FinalStates<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) head: Head,
    pub(crate) streams: Streams,
    pub(crate) store: Rc<HiddenStates>,
    states: Vec<StoredState>,
    places: Vec<(usize, usize)>,
}

impl FinalStates<'_> {
    /// Returns the number of sequences.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True if there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Discards the states; only the head remains.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        for state in self.states.drain(..) {
            self.store.discard(state);
        }
    }

    /// Returns the hidden states of a sequence [1, tokens, hidden].
    pub(crate) fn state(&self, sequence: usize) -> Result<Array> {
        let (state, row) = self.places[sequence];
        slice(&self.store.get(&self.states[state])?, 0, row, row + 1)
    }

    /// Computes the logits of the positions `from..to` of a sequence, row-major [positions, vocabulary].
    pub fn logits(&self, sequence: usize, from: usize, to: usize) -> Result<Vec<f32>> {
        let state = self.state(sequence)?;
        to_vec(&self.head.logits(&slice(&state, 1, from, to)?)?)
    }

    /// Returns the most positions whose logits may be in memory at a time.
    pub fn positions_at_once(&self) -> usize {
        positions_at_once(self.context.spec.vocab_size)
    }
}

/// Returns the most positions whose logits may be in memory at a time, with so many tokens in the vocabulary.
pub(crate) fn positions_at_once(vocabulary: usize) -> usize {
    (LOGIT_VALUES / vocabulary.max(1)).clamp(1, LOGIT_POSITIONS)
}

/// Runs `inputs`, each [batch, tokens, hidden], through a block in parallel and evaluates the outputs. `collector` sees
/// the inputs of its linear layers.
pub(crate) fn forward(
    context: Context<'_>,
    streams: Streams,
    block: &Block,
    inputs: &[Array],
    mut collector: Option<&mut Collector>,
) -> Result<Vec<Array>> {
    crate::interrupt::check()?;
    let mut collected = Ok(());
    let mut observe = |input: Input, x: &Array| {
        if let Some(collector) = collector.as_deref_mut()
            && collected.is_ok()
        {
            collected = collector.see(input, x);
        }
    };
    let mut attended = Vec::with_capacity(inputs.len());
    for (index, x) in inputs.iter().enumerate() {
        let mut positions = Positions::new(context.spec, 0, x.shape()[1] as usize);
        let built = streams.on(index, || block.attend(context, x, &mut positions, None, &mut observe));
        attended.push(built?);
    }
    if block.router.is_some() {
        streams.eval(inputs.len(), attended.iter().flat_map(Attended::arrays))?;
    }
    let mut outputs = Vec::with_capacity(inputs.len());
    for (index, attended) in attended.into_iter().enumerate() {
        let choice = block.choose(&attended)?;
        outputs.push(streams.on(index, || block.finish(context, &attended, choice.as_ref(), &mut observe))?);
    }
    collected?;
    match collector {
        Some(collector) => {
            streams.eval(inputs.len(), outputs.iter().chain(collector.pending()))?;
            collector.add()?;
        }
        None => streams.eval(inputs.len(), &outputs)?,
    }
    Ok(outputs)
}

fn check_tokens(spec: &DecoderSpec, sequences: &[Vec<u32>]) -> Result<()> {
    check_length(spec, sequences.iter().map(Vec::len).max().unwrap_or(0))?;
    match sequences.iter().flatten().find(|&&token| token as usize >= spec.vocab_size) {
        Some(token) => Err(Error::input(format!(
            "token id {token} is not below the vocabulary's size {}",
            spec.vocab_size
        ))
        .hint("tokenizer and model do not belong together")),
        None => Ok(()),
    }
}
