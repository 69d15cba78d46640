//! Second moments of what goes into each linear layer: E[x_j^2] for scale search, E[x x^T] for GPTQ.
//!
//! Layers that share an input share its moments: q, k and v; gate and up. Block after block, so that no more than one
//! block's moments are held.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::transforms::eval;

use super::Engine;
use super::array::{from_vec, mlx_dtype, to_vec};
use super::block::Block;
use super::forward::{FinalStates, Pass};
use super::linear::Weight;
use super::load::Loader;
use crate::checkpoint::SourceModel;
use crate::error::Result;
use crate::rounding::shrink;
use crate::spec::Role;

/// How much of the moments is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// E[x_j^2], a value a column.
    Diagonal,
    /// E[x x^T], row-major [columns, columns].
    Full,
}

/// Moments by the role whose input they are of; see [`input_of`].
pub type Moments = BTreeMap<Role, Vec<f32>>;

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
                replace(&mut block, role, weights, loader)?;
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

fn replace(block: &mut Block, role: Role, weights: Vec<f32>, loader: Loader<'_>) -> Result<()> {
    if let Some(linear) = block.linear_mut(role) {
        let shape: Vec<usize> =
            linear.weight.dense(loader.dtype)?.shape().iter().map(|&n| n as usize).collect();
        linear.weight = Weight::Float(from_vec(weights, &shape).as_dtype(mlx_dtype(loader.dtype))?);
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
            replace(&mut block, role, weights, self.loader)?;
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
            collector.see(Role::Head, &self.head.normed(self.context, &self.state(sequence)?)?)?;
            eval(collector.waiting())?;
            collector.add()?;
        }
        collector.estimates()
    }
}

/// Rows that go into one product E[x x^T] at least, if there are so many: the sum of products is as large as the square of
/// the columns, and to read and write it takes longer than a few rows' product.
const ROWS: usize = 1024;

/// Adds up moments over sequences.
pub(super) struct Collector {
    extent: Extent,
    /// What is yet to be added: squares, or whole inputs to go into one product.
    waiting: BTreeMap<Role, Vec<Array>>,
    sums: BTreeMap<Role, Array>,
    rows: BTreeMap<Role, usize>,
}

impl Collector {
    pub(super) fn new(extent: Extent) -> Self {
        Self { extent, waiting: BTreeMap::new(), sums: BTreeMap::new(), rows: BTreeMap::new() }
    }

    /// An input [batch, tokens, columns], not evaluated yet.
    pub(super) fn see(&mut self, role: Role, x: &Array) -> Result<()> {
        let columns = x.shape().last().copied().unwrap_or(1);
        let x = x.reshape(&[-1, columns])?.as_dtype(mlx_rs::Dtype::Float32)?;
        *self.rows.entry(role).or_default() += x.shape().first().map_or(0, |&rows| rows as usize);
        let waiting = match self.extent {
            Extent::Full => x,
            Extent::Diagonal => x.square()?.sum_axis(0, false)?,
        };
        self.waiting.entry(role).or_default().push(waiting);
        Ok(())
    }

    /// What was seen and is not added yet, to be evaluated beside what it is the input of.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Array> {
        self.waiting.values().flatten()
    }

    /// Adds what has been evaluated, inputs only where they are many. How many were evaluated together changes nothing.
    pub(super) fn add(&mut self) -> Result<()> {
        for (role, waiting) in std::mem::take(&mut self.waiting) {
            let mut together = Vec::new();
            for seen in waiting {
                together.push(seen);
                if self.extent == Extent::Diagonal || are_many(&together) {
                    self.add_up(role, std::mem::take(&mut together))?;
                }
            }
            if !together.is_empty() {
                self.waiting.insert(role, together);
            }
        }
        Ok(())
    }

    fn add_up(&mut self, role: Role, mut together: Vec<Array>) -> Result<()> {
        let x = match together.len() {
            1 => together.remove(0),
            _ => mlx_rs::ops::concatenate(&together, 0)?,
        };
        drop(together);
        let mut sum = match self.extent {
            Extent::Full => x.t().matmul(&x)?,
            Extent::Diagonal => x,
        };
        if let Some(before) = self.sums.remove(&role) {
            sum = before.add(sum)?;
        }
        eval([&sum])?;
        self.sums.insert(role, sum);
        Ok(())
    }

    /// Means over all that was seen.
    pub(super) fn moments(&mut self) -> Result<Moments> {
        for (role, waiting) in std::mem::take(&mut self.waiting) {
            self.add_up(role, waiting)?;
        }
        let mut moments = Moments::new();
        for (&role, sum) in &self.sums {
            let scale = 1.0 / self.rows.get(&role).copied().unwrap_or(1).max(1) as f32;
            let mut values = to_vec(sum)?;
            for value in &mut values {
                *value *= scale;
            }
            moments.insert(role, values);
        }
        Ok(moments)
    }

    /// The same as an estimate for other texts: see [`shrink`].
    pub(super) fn estimates(&mut self) -> Result<Moments> {
        let mut moments = self.moments()?;
        if self.extent == Extent::Full {
            for (role, values) in &mut moments {
                let columns = values.len().isqrt();
                shrink(values, columns, self.rows.get(role).copied().unwrap_or(0));
            }
        }
        Ok(moments)
    }
}

/// Whether a product of these inputs costs more than to add it up.
fn are_many(inputs: &[Array]) -> bool {
    let size = |axis: usize| inputs.iter().map(move |x| x.shape()[axis] as usize);
    size(0).sum::<usize>() >= (size(1).max().unwrap_or(0) / 2).min(ROWS)
}
