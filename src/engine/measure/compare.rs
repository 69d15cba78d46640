//! The measured effect of rounding some layers: KL divergence from the float model.

use std::rc::Rc;

use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::{Loader, Rounding};
use crate::engine::decoder::model::Head;
use crate::engine::passes::forward::{FinalStates, Pass, forward};
use crate::engine::passes::states::{HiddenStates, StoredState};
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::source::SourceModel;

/// Float model on some sequences: every block's inputs and the last hidden states, to compare with.
pub struct Comparison<'a> {
    loader: Loader<'a>,
    store: Rc<HiddenStates>,
    inputs: Vec<Vec<StoredState>>,
    float: FinalStates<'a>,
    tokens: usize,
}

impl<'a> Comparison<'a> {
    /// Runs the float model on `sequences`, all of one length. Past `memory` bytes hidden states go to a temporary
    /// file.
    pub fn new(
        engine: &Engine,
        source: &'a SourceModel,
        sequences: &[Vec<u32>],
        memory: u64,
    ) -> Result<Self> {
        let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
        let mut pass = Pass::embed(engine, loader, sequences, 1, memory)?;
        let mut inputs = Vec::new();
        for index in 0..source.spec().blocks.len() {
            let block = Block::load_for_many(&loader, pass.context, index)?;
            inputs.push(pass.advance(&block, None)?);
        }
        let tokens = sequences.iter().map(Vec::len).sum();
        Ok(Self { loader, store: Rc::clone(&pass.store), inputs, float: pass.into_final()?, tokens })
    }

    /// Computes the mean KL divergence per token, in nats, of the model with `rounding` from the float model. Blocks
    /// before the first rounded layer are not run again.
    pub fn kl_divergence(&self, rounding: &Rounding) -> Result<f64> {
        let manifest = self.loader.source.manifest();
        let blocks = self.inputs.len();
        let block_of = |path: &String| manifest.layer(path).and_then(|spec| spec.layer);
        let first =
            rounding.bitmap.keys().map(|path| block_of(path).unwrap_or(blocks)).min().unwrap_or(blocks);
        let loader = Loader { rounding: Some(rounding), ..self.loader };
        let context = self.float.context;
        let changed = (first..blocks).map(|index| Block::load(&loader, index)).collect::<Result<Vec<_>>>()?;
        let head = Head::load(&loader)?;
        let mut total = 0.0;
        let sequences: Vec<usize> = (0..self.float.len()).collect();
        for batch in sequences.chunks(self.float.streams.count()) {
            let input = |&sequence: &usize| match self.inputs.get(first) {
                Some(inputs) => self.store.get(&inputs[sequence]),
                None => self.float.state(sequence),
            };
            let mut states = batch.iter().map(input).collect::<Result<Vec<_>>>()?;
            for block in &changed {
                states = forward(context, self.float.streams, block, &states, None)?;
            }
            for (&sequence, x) in batch.iter().zip(&states) {
                let divergences = self.float.divergences(sequence, std::slice::from_ref(x), &head)?;
                total += divergences.iter().sum::<f64>();
            }
        }
        Ok(total / self.tokens as f64)
    }
}
