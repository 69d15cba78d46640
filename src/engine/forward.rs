//! Many sequences through a model that is never in memory as a whole: block after block, each loaded once.

use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use super::Engine;
use super::array::{slice, to_vec};
use super::attention::Positions;
use super::block::{Block, Context};
use super::load::Loader;
use super::model::Ends;
use super::moments::Collector;
use super::states::{Kept, Store};
use crate::checkpoint::SourceModel;
use crate::error::{Error, Result};
use crate::spec::DecoderSpec;

/// Values of logits that are held at a time.
const LOGITS: usize = 1 << 24;

/// Runs the token `sequences` through `source`, up to `batch` of one length together. Past `memory` bytes hidden states
/// go to a temporary file. `tick` is called once a block.
pub fn run_forward<'a>(
    engine: &Engine,
    source: &'a SourceModel,
    sequences: &[Vec<u32>],
    batch: usize,
    memory: u64,
    tick: &dyn Fn(),
) -> Result<FinalStates<'a>> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    Pass::embed(engine, loader, sequences, batch, memory)?.finish(tick)
}

/// Hidden states of some sequences, on their way through the blocks. Sequences of one length may go together.
pub(super) struct Pass<'a> {
    pub(super) loader: Loader<'a>,
    pub(super) context: Context<'a>,
    pub(super) ends: Ends,
    pub(super) store: Rc<Store>,
    pub(super) states: Vec<Kept>,
    /// Of each sequence, its state and its row in it.
    places: Vec<(usize, usize)>,
}

impl<'a> Pass<'a> {
    /// Embeds the sequences, up to `batch` together. Past `memory` bytes hidden states go to the disk.
    pub(super) fn embed(
        engine: &Engine,
        loader: Loader<'a>,
        sequences: &[Vec<u32>],
        batch: usize,
        memory: u64,
    ) -> Result<Self> {
        let context = Context { spec: loader.source.spec(), dtype: loader.dtype, on_gpu: engine.gpu };
        check_tokens(context.spec, sequences)?;
        let ends = Ends::load(&loader)?;
        let store = Rc::new(Store::new(loader.dtype, memory));
        let (mut states, mut places) = (Vec::new(), Vec::new());
        for same_length in sequences.chunk_by(|a, b| a.len() == b.len()) {
            for together in same_length.chunks(batch.max(1)) {
                let sizes = [together.len() as i32, together[0].len() as i32];
                let embedded = ends.embed(&Array::from_slice(&together.concat(), &sizes), context.dtype)?;
                eval([&embedded])?;
                places.extend((0..together.len()).map(|row| (states.len(), row)));
                states.push(store.put(embedded)?);
            }
        }
        Ok(Self { loader, context, ends, store, states, places })
    }

    /// Through `block`, keeping its inputs, which are returned. A collector sees what its linear layers get.
    pub(super) fn advance(
        &mut self,
        block: &Block,
        mut collector: Option<&mut Collector>,
    ) -> Result<Vec<Kept>> {
        let mut outputs = Vec::with_capacity(self.states.len());
        for kept in &self.states {
            let x = self.store.get(kept)?;
            outputs.push(self.store.put(forward(self.context, block, &x, collector.as_deref_mut())?)?);
        }
        Ok(std::mem::replace(&mut self.states, outputs))
    }

    /// Through all blocks, keeping no inputs. `tick` is called once a block.
    pub(super) fn finish(mut self, tick: &dyn Fn()) -> Result<FinalStates<'a>> {
        for index in 0..self.context.spec.layers.len() {
            let block = Block::load_for_many(&self.loader, self.context, index)?;
            for kept in std::mem::take(&mut self.states) {
                let x = self.store.take(kept)?;
                self.states.push(self.store.put(forward(self.context, &block, &x, None)?)?);
            }
            tick();
        }
        self.into_final()
    }

    /// After the last block.
    pub(super) fn into_final(self) -> Result<FinalStates<'a>> {
        let Self { context, mut ends, store, states, places, .. } = self;
        if !context.on_gpu {
            ends.decode_head(context.dtype)?;
        }
        Ok(FinalStates { context, ends, store, states, places })
    }
}

/// What the last block gave for some sequences, and the head: logits on demand, without the blocks.
pub struct FinalStates<'a> {
    pub(super) context: Context<'a>,
    pub(super) ends: Ends,
    pub(super) store: Rc<Store>,
    states: Vec<Kept>,
    places: Vec<(usize, usize)>,
}

impl FinalStates<'_> {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Gives the states up; what is left is the head.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        for kept in self.states.drain(..) {
            self.store.discard(kept);
        }
    }

    /// The hidden states of a sequence [1, tokens, hidden].
    pub(super) fn state(&self, sequence: usize) -> Result<Array> {
        let (state, row) = self.places[sequence];
        slice(&self.store.get(&self.states[state])?, 0, row, row + 1)
    }

    /// Logits of the positions `from..to` of a sequence, row-major [positions, vocabulary].
    pub fn logits(&self, sequence: usize, from: usize, to: usize) -> Result<Vec<f32>> {
        let state = self.state(sequence)?;
        to_vec(&self.ends.logits(self.context, &slice(&state, 1, from, to)?)?)
    }

    /// Positions whose logits may be held at a time.
    pub fn positions_at_once(&self) -> usize {
        (LOGITS / self.context.spec.vocab_size).max(1)
    }
}

/// x [batch, tokens, hidden] through a block, evaluated.
pub(super) fn forward(
    context: Context<'_>,
    block: &Block,
    x: &Array,
    collector: Option<&mut Collector>,
) -> Result<Array> {
    crate::interrupt::check()?;
    let mut positions = Positions::new(context.spec, 0, x.shape()[1] as usize);
    let Some(collector) = collector else {
        let y = block.forward(context, x, &mut positions, None)?;
        eval([&y])?;
        return Ok(y);
    };
    let mut observe = |role, x: &Array| collector.see(role, x);
    let y = block.forward_observed(context, x, &mut positions, None, &mut observe)?;
    eval([&y])?;
    collector.settle()?;
    Ok(y)
}

fn check_tokens(spec: &DecoderSpec, sequences: &[Vec<u32>]) -> Result<()> {
    match sequences.iter().flatten().find(|&&token| token as usize >= spec.vocab_size) {
        Some(token) => Err(Error::usage(format!(
            "token id {token} is not below the vocabulary's size {}",
            spec.vocab_size
        ))
        .hint("tokenizer and model do not belong together")),
        None => Ok(()),
    }
}
