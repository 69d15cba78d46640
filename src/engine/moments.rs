//! Second moments of what goes into each linear layer: E[x_j^2] for scale search, E[x x^T] for GPTQ.
//!
//! Layers that share an input share its moments: q, k and v; gate and up. Block after block, so that no more than one
//! block's moments are held.

use mlx_rs::transforms::eval;

use super::Engine;
use super::array::{from_vec, mlx_dtype};
use super::block::Block;
use super::collector::{Collector, Extent, Moments};
use super::forward::{FinalStates, Pass};
use super::linear::Weight;
use super::load::Loader;
use crate::checkpoint::SourceModel;
use crate::error::Result;
use crate::spec::Role;

/// The role under which the moments of a role's input are kept.
pub fn input_of(role: Role) -> Role {
    match role {
        Role::K | Role::V => Role::Q,
        Role::Up => Role::Gate,
        other => other,
    }
}

/// What to run, and how.
pub struct MomentSettings<'a> {
    /// Token ids.
    pub sequences: &'a [Vec<u32>],
    /// How much is wanted.
    pub extent: Extent,
    /// Bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// Called with (steps done, steps in all).
    pub progress: &'a dyn Fn(usize, usize),
}

/// Weights, row-major, that take the place of a block's own before its outputs go on.
pub type Replacements = Vec<(Role, Vec<f32>)>;

/// Hands the moments of each block (the head's as `None`, last) to `each`. If that returns weights, the block's outputs
/// are computed with them: later blocks then see the activations of what came before, as it was rounded.
pub fn input_moments(
    engine: &Engine,
    source: &SourceModel,
    settings: &MomentSettings<'_>,
    each: impl FnMut(Option<usize>, &Moments) -> Result<Replacements>,
) -> Result<()> {
    input_moments_where(engine, source, settings, |_| Ok(None), each)
}

/// The same without the blocks for which `known` gives at once what `each` would return.
pub fn input_moments_where(
    engine: &Engine,
    source: &SourceModel,
    settings: &MomentSettings<'_>,
    known: impl Fn(Option<usize>) -> Result<Option<Replacements>>,
    mut each: impl FnMut(Option<usize>, &Moments) -> Result<Replacements>,
) -> Result<()> {
    let loader = Loader::new(source, engine.compute_dtype(source.dtype()?));
    let mut pass = Pass::embed(engine, loader, settings.sequences, 1, settings.memory)?;
    let blocks = source.spec().layers.len();
    for index in 0..blocks {
        let mut block = Block::load_for_many(&loader, pass.context, index)?;
        if let Some(replaced) = known(Some(index))? {
            for (role, weights) in replaced {
                replace(&mut block, role, &weights, loader)?;
            }
            let inputs = std::mem::take(&mut pass.states);
            pass.replace(inputs, &block)?;
        } else {
            pass.measure(block, settings.extent, |moments| each(Some(index), moments))?;
        }
        (settings.progress)(index + 1, blocks);
    }
    let last = pass.into_final()?;
    if source.spec().tie_word_embeddings || known(None)?.is_some() {
        return Ok(());
    }
    each(None, &last.head_moments(settings.extent)?).map(drop)
}

fn replace(block: &mut Block, role: Role, weights: &[f32], loader: Loader<'_>) -> Result<()> {
    let linears = block.linears_mut(role);
    let each = weights.len() / linears.len().max(1);
    for (linear, weights) in linears.iter_mut().zip(weights.chunks(each.max(1))) {
        let shape: Vec<usize> =
            linear.weight.dense(loader.dtype)?.shape().iter().map(|&n| n as usize).collect();
        let weights = from_vec(weights.to_vec(), &shape);
        linear.weight = Weight::Float(weights.as_dtype(mlx_dtype(loader.dtype))?);
    }
    Ok(())
}

impl Pass<'_> {
    /// Through `block`, and again with the weights that `each` returns, if any.
    fn measure(
        &mut self,
        mut block: Block,
        extent: Extent,
        each: impl FnOnce(&Moments) -> Result<Replacements>,
    ) -> Result<()> {
        let mut collector = Collector::new(extent);
        let inputs = self.advance(&block, Some(&mut collector))?;
        let replaced = each(&collector.estimates()?)?;
        if replaced.is_empty() {
            for kept in inputs {
                self.store.discard(kept);
            }
            return Ok(());
        }
        for (role, weights) in replaced {
            replace(&mut block, role, &weights, self.loader)?;
        }
        self.redo(inputs, &block)
    }

    /// Runs `block` again on its inputs; the outputs take the place of the current states.
    fn redo(&mut self, inputs: Vec<super::states::Kept>, block: &Block) -> Result<()> {
        for kept in std::mem::take(&mut self.states) {
            self.store.discard(kept);
        }
        self.replace(inputs, block)
    }
}

impl FinalStates<'_> {
    /// Moments of the head's input.
    pub(super) fn head_moments(&self, extent: Extent) -> Result<Moments> {
        let mut collector = Collector::new(extent);
        for sequence in 0..self.len() {
            collector.see(Role::Head.into(), &self.head.normed(self.context, &self.state(sequence)?)?)?;
            eval(collector.waiting())?;
            collector.add()?;
        }
        collector.estimates()
    }
}
