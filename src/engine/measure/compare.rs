//! The measured effect of rounding some layers: KL divergence from the float model.

use std::rc::Rc;

use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::{Loader, Rounding, Tuned, Values, decode_part};
use crate::engine::decoder::model::Head;
use crate::engine::passes::forward::{FinalStates, Pass, forward};
use crate::engine::passes::states::{HiddenStates, StoredState};
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
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
        let blocks = rounding.bitmap.keys().map(|path| manifest.layer(path).and_then(|spec| spec.layer));
        let first = blocks.map(|block| block.unwrap_or(self.inputs.len())).min();
        self.divergence_from(first, &Loader { rounding: Some(rounding), ..self.loader })
    }

    /// Computes the mean KL divergence per token, in nats, of the model whose layer at `path` has the values of `rounded`.
    ///
    /// # Errors
    /// When one of both has no layer at `path`, or their shapes differ.
    pub fn kl_divergence_of_layer(&self, rounded: &SourceModel, path: &str) -> Result<f64> {
        let spec = self.loader.source.manifest().layer(path);
        let spec = spec.ok_or_else(|| Error::input(format!("`{path}` is no layer of the float model")))?;
        let tensor = rounded.tensor(&spec.name)?;
        if tensor.shape != spec.shape {
            let found = format!("has shape {:?}, expected {:?}", tensor.shape, spec.shape);
            return Err(Error::tensor(rounded.dir(), &spec.name, found));
        }
        let values = decode_part(tensor, 0..spec.len());
        let (floats, latents) = (Values::from([(spec.name.clone(), values)]), Values::new());
        let tuned = Some(Tuned { floats: &floats, latents: &latents });
        self.divergence_from(spec.layer, &Loader { tuned, ..self.loader })
    }

    /// Runs the blocks from `first` on with the weights of `loader`, or the head alone.
    fn divergence_from(&self, first: Option<usize>, loader: &Loader<'_>) -> Result<f64> {
        let blocks = self.inputs.len();
        let first = first.unwrap_or(blocks);
        let context = self.float.context;
        let changed = (first..blocks).map(|index| Block::load(loader, index)).collect::<Result<Vec<_>>>()?;
        let head = Head::load(loader)?;
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
