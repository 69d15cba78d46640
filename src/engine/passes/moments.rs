//! Second moments of the input of each linear layer: E[x_j^2] for scale search, E[x x^T] for GPTQ.
//!
//! Layers that share an input share its moments: q, k and v; gate and up. One block's moments are in memory at a time.

use mlx_rs::transforms::eval;

use super::collector::{Collector, Extent, Moments};
use super::forward::{FinalStates, Pass};
use crate::engine::decoder::block::Block;
use crate::engine::decoder::load::Loader;
use crate::engine::measure::whole_models::advance;
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::models::source::SourceModel;
use crate::models::spec::Tap;

/// Sequences to run and the moments to collect.
pub struct MomentSettings<'a> {
    /// Token ids of the sequences.
    pub sequences: &'a [Vec<u32>],
    /// Part of the moments that is collected.
    pub extent: Extent,
    /// Most bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// Called with (steps done, total steps).
    pub progress: &'a dyn Fn(usize, usize),
}

/// Hands the moments of each block (the head's as `None`, last) to `each`.
pub fn input_moments(
    engine: &Engine,
    source: &SourceModel,
    settings: &MomentSettings<'_>,
    each: impl FnMut(Option<usize>, &Moments) -> Result<()>,
) -> Result<()> {
    input_moments_where(engine, source, settings, |_| true, each)
}

/// Hands the moments of each block that `is_wanted` to `each`; the others are only run.
pub fn input_moments_where(
    engine: &Engine,
    source: &SourceModel,
    settings: &MomentSettings<'_>,
    is_wanted: impl Fn(Option<usize>) -> bool,
    mut each: impl FnMut(Option<usize>, &Moments) -> Result<()>,
) -> Result<()> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let mut pass = Pass::embed(engine, loader, settings.sequences, 1, settings.memory)?;
    let blocks = source.spec().blocks.len();
    for index in 0..blocks {
        let block = Block::load_for_many(&loader, pass.context, index)?;
        if is_wanted(Some(index)) {
            let mut collector = Collector::new(settings.extent);
            advance(&mut pass, &block, &mut collector)?;
            drop(block);
            each(Some(index), &collector.take_estimates()?)?;
        } else {
            let inputs = std::mem::take(&mut pass.states);
            pass.replace(inputs, &block)?;
        }
        (settings.progress)(index + 1, blocks);
    }
    let last = pass.into_final()?;
    if source.spec().head.tied || !is_wanted(None) {
        return Ok(());
    }
    each(None, &last.head_moments(settings.extent)?)
}

impl FinalStates<'_> {
    /// Computes the moments of the head's input.
    pub(crate) fn head_moments(&self, extent: Extent) -> Result<Moments> {
        let mut collector = Collector::new(extent);
        for sequence in 0..self.len() {
            collector.see(Tap::HEAD.into(), &self.head.normed(&self.state(sequence)?)?)?;
            eval(collector.pending())?;
            collector.add()?;
        }
        collector.take_estimates()
    }
}
