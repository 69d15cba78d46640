//! The decoder block, once for every architecture.

use mlx_rs::Array;

use super::attention::Attention;
use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Input, Mlp, Nodes};
use super::norm::Norm;
use super::positions::Positions;
use super::router::{Choice, Router};
use crate::engine::array::factor;
use crate::engine::cache::layer::KvCache;
use crate::engine::fused::Around;
use crate::error::{Error, Result};
use crate::models::spec::{BlockSpec, Branch as BranchSpec, Tap};

/// Weights of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    attention: Branch<Attention>,
    mlp: Branch<Mlp>,
    /// True if the MLP reads the block's input.
    parallel: bool,
    /// Router of an MLP of experts.
    pub(crate) router: Option<Router>,
}

/// Part of a block, and how its output is added to the residual stream.
#[derive(Debug, Clone)]
struct Branch<P> {
    before: Option<Norm>,
    part: P,
    after: Option<Norm>,
    factor: Option<f32>,
}

impl<P> Branch<P> {
    fn load<S>(
        loader: &Loader<'_>,
        spec: &BranchSpec<S>,
        part: impl Fn(&Loader<'_>, &S) -> Result<P>,
    ) -> Result<Self> {
        Ok(Self {
            before: Norm::load_some(loader, spec.before.as_ref())?,
            part: part(loader, &spec.part)?,
            after: Norm::load_some(loader, spec.after.as_ref())?,
            factor: spec.factor,
        })
    }

    /// Returns the part's input.
    fn input(&self, stream: &Array) -> Result<Array> {
        self.before.as_ref().map_or_else(|| Ok(stream.clone()), |norm| norm.forward(stream))
    }

    /// Returns the residual stream if the part itself adds it to its output: nothing is done to the output before.
    fn addend<'a>(&self, stream: &'a Array) -> Option<&'a Array> {
        (self.after.is_none() && self.factor.is_none()).then_some(stream)
    }

    /// Adds the part's output to the residual stream, unless the part has done so.
    fn add(&self, stream: &Array, mut output: Array) -> Result<Array> {
        if self.addend(stream).is_some() {
            return Ok(output);
        }
        if let Some(norm) = &self.after {
            output = norm.forward(&output)?;
        }
        if let Some(value) = self.factor {
            output = output.multiply(factor(value, &output)?)?;
        }
        Ok(stream.add(output)?)
    }
}

/// Outputs of a block's attention: the inputs of its MLP.
pub(crate) struct Attended {
    /// Residual stream [batch, tokens, hidden].
    stream: Array,
    /// Normed input of the MLP [batch, tokens, hidden].
    normed: Array,
    /// Scores of the experts, [tokens, experts].
    scores: Option<Array>,
}

impl Attended {
    /// Returns all arrays, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.stream, &self.normed].into_iter().chain(&self.scores)
    }
}

impl Block {
    pub(crate) fn load(loader: &Loader<'_>, index: usize) -> Result<Self> {
        let BlockSpec { attention, mlp, parallel, .. } = &loader.source.spec().blocks[index];
        Ok(Self {
            parallel: *parallel,
            attention: Branch::load(loader, attention, Attention::load)?,
            mlp: Branch::load(loader, mlp, Mlp::load)?,
            router: Router::load(loader, &mlp.part)?,
        })
    }

    /// Loads a block that many sequences go through. On the CPU, whose products with quantized matrices decode them, all
    /// of them are decoded here once and not for each sequence.
    pub(crate) fn load_for_many(loader: &Loader<'_>, context: Context<'_>, index: usize) -> Result<Self> {
        let mut block = Self::load(loader, index)?;
        if !context.on_gpu {
            block.decode(context, |_| true)?;
        }
        Ok(block)
    }

    /// Decodes the router, the gate of shared experts, and the linear layers at the paths for which `is_wanted` says so.
    pub(crate) fn decode(&mut self, context: Context<'_>, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        for linear in self.layers_mut().flatten().filter(|linear| is_wanted(&linear.path)) {
            linear.weight.decode(context.dtype)?;
        }
        let gate = self.mlp.part.shared.as_mut().and_then(|shared| shared.gate.as_mut());
        let router = self.router.as_mut().map(|router| &mut router.linear);
        for linear in router.into_iter().chain(gate.map(|(_, linear)| linear)) {
            linear.weight.decode(context.dtype)?;
        }
        Ok(())
    }

    /// Returns the linear layer at `path`, or those of its experts; none where there is none.
    pub(crate) fn linears_mut(&mut self, path: &str) -> &mut [Linear] {
        let mut layers = self.layers_mut();
        layers.find(|layer| layer.first().is_some_and(|linear| *linear.path == *path)).unwrap_or_default()
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut [Linear]> {
        self.attention.part.linears_mut().chain(self.mlp.part.linears_mut())
    }

    /// Replaces the parameter called `name` of a norm of this block, which is described by `spec`.
    pub(crate) fn set_norm(&mut self, spec: &BlockSpec, name: &str, stored: &Array) -> Result<()> {
        let Self { attention: Branch { before, part, after, .. }, mlp, .. } = self;
        let own = [(&spec.attention.before, before), (&spec.attention.after, after)];
        let own =
            own.into_iter().chain([(&spec.mlp.before, &mut mlp.before), (&spec.mlp.after, &mut mlp.after)]);
        let own = own.filter_map(|(spec, norm)| Some((spec.as_ref()?, norm.as_mut()?)));
        let of_heads = spec.attention.part.norms().iter().zip(part.norms_mut());
        for (spec, norm) in own.chain(of_heads) {
            if let Some((parameter, _)) = spec.names().find(|(_, other)| other == name) {
                norm.set(parameter, stored.clone())?;
            }
        }
        Ok(())
    }

    /// Computes the block's output [batch, tokens, hidden] from x of that shape. Without a cache the tokens are the
    /// whole sequence.
    pub(crate) fn forward(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Array> {
        if context.nodes == Nodes::Fused
            && let Some(cache) = cache.as_deref_mut()
            && let Some(output) = self.forward_fused(context, x, positions, cache)?
        {
            return Ok(output);
        }
        let attended = self.attend(context, x, positions, cache, &mut |_, _| {})?;
        let choice = self.choose(&attended)?;
        self.finish(context, &attended, choice.as_ref(), &mut |_, _| {})
    }

    /// Computes the same with a node for attention and, without experts, one for the MLP. `None` where attention has none.
    fn forward_fused(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: &mut KvCache,
    ) -> Result<Option<Array>> {
        let attend =
            |around: &Around<'_>| self.attention.part.forward_fused(context, around, positions, cache);
        let addend = self.attention.addend(x);
        let Some(output) = around(x, self.attention.before.as_ref(), addend, attend)? else {
            return Ok(None);
        };
        let stream = self.attention.add(x, output)?;
        let (input, before) = match (self.parallel, &self.mlp.before) {
            (false, before) => (&stream, before),
            (true, None) => (x, &self.attention.before),
            (true, before) => (x, before),
        };
        if self.router.is_none() {
            let addend = self.mlp.addend(&stream);
            let output =
                around(input, before.as_ref(), addend, |around| Ok(self.mlp.part.forward_fused(0, around)))?;
            if let Some(output) = output {
                return self.mlp.add(&stream, output).map(Some);
            }
        }
        let normed = before.as_ref().map_or_else(|| Ok(input.clone()), |norm| norm.forward(input))?;
        let attended = self.routed(stream, normed)?;
        let choice = self.choose(&attended)?;
        self.finish(context, &attended, choice.as_ref(), &mut |_, _| {}).map(Some)
    }

    /// Returns the inputs of the MLP with what its router says.
    fn routed(&self, stream: Array, normed: Array) -> Result<Attended> {
        let scores = self.router.as_ref().map(|router| router.scores(&normed)).transpose()?;
        Ok(Attended { stream, normed, scores })
    }

    /// Computes the block's output for a whole sequence x, with its experts already chosen.
    pub(crate) fn forward_chosen(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        choice: Option<&Choice>,
    ) -> Result<Array> {
        let attended = self.attend(context, x, positions, None, &mut |_, _| {})?;
        self.finish(context, &attended, choice, &mut |_, _| {})
    }

    /// Computes attention, up to the MLP's input. `observe` sees the inputs of the linear layers.
    pub(crate) fn attend(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: Option<&mut KvCache>,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Attended> {
        let normed = self.attention.input(x)?;
        let addend = self.attention.addend(x);
        let output = self.attention.part.forward_plus(context, &normed, positions, cache, addend, observe)?;
        let stream = self.attention.add(x, output)?;
        let normed = match (self.parallel, &self.mlp.before) {
            (false, _) => self.mlp.input(&stream)?,
            (true, Some(norm)) => norm.forward(x)?,
            (true, None) => normed,
        };
        self.routed(stream, normed)
    }

    /// Chooses the experts of the tokens; `None` where the MLP has none. Evaluates.
    pub(crate) fn choose(&self, attended: &Attended) -> Result<Option<Choice>> {
        let Some(router) = &self.router else { return Ok(None) };
        attended.scores.as_ref().map(|scores| router.choose(scores)).transpose()
    }

    /// Computes the MLP and the block's output. `observe` sees the inputs of the linear layers.
    pub(crate) fn finish(
        &self,
        context: Context<'_>,
        attended: &Attended,
        choice: Option<&Choice>,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        let Attended { stream, normed, scores } = attended;
        let addend = self.mlp.addend(stream);
        // Attention has shown an input that it shares.
        let mut unseen = |input: Input, x: &Array| {
            if input.tap != Tap::ATTENTION {
                observe(input, x);
            }
        };
        let output = if let Some(router) = &self.router {
            let (Some(scores), Some(choice)) = (scores, choice) else {
                return Err(Error::engine("experts that were not chosen"));
            };
            let mut output =
                router.forward(context, &self.mlp.part, normed, (scores, choice), &mut unseen)?;
            if let Some(shared) = &self.mlp.part.shared {
                output = shared.add_to(context, normed, &output, &mut unseen)?;
            }
            addend.map_or_else(|| Ok(output.clone()), |addend| addend.add(&output))?
        } else {
            self.mlp.part.forward_plus(context, normed, addend, &mut unseen)?
        };
        self.mlp.add(stream, output)
    }
}

/// Calls `part` with x and a norm that it computes itself; a norm that no node knows is computed before.
fn around(
    x: &Array,
    norm: Option<&Norm>,
    addend: Option<&Array>,
    part: impl FnOnce(&Around<'_>) -> Result<Option<Array>>,
) -> Result<Option<Array>> {
    match norm {
        Some(norm) if norm.rms().is_none() => part(&Around { x: &norm.forward(x)?, norm: None, addend }),
        norm => part(&Around { x, norm: norm.and_then(Norm::rms), addend }),
    }
}
