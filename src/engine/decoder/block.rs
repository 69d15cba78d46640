//! The decoder block, once for every architecture.

use mlx_rs::Array;

use super::attention::Attention;
use super::experts::{Choice, Router};
use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Gated, Input};
use super::norm::Norm;
use super::positions::Positions;
use crate::engine::cache::layer::KvCache;
use crate::error::Result;
use crate::models::spec::{BlockSpec, QkNorm};

/// Weights of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: Gated,
    /// Router of an MLP of experts.
    pub(crate) router: Option<Router>,
}

/// Outputs of a block's attention: the inputs of its MLP.
pub(crate) struct Attended {
    /// Residual stream [batch, tokens, hidden].
    stream: Array,
    /// Normed input of the MLP [batch, tokens, hidden].
    normed: Array,
    /// Probabilities of the experts, [tokens, experts].
    probabilities: Option<Array>,
}

impl Attended {
    /// Returns all arrays, to be evaluated.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.stream, &self.normed].into_iter().chain(&self.probabilities)
    }
}

impl Block {
    pub(crate) fn load(loader: &Loader<'_>, index: usize) -> Result<Self> {
        let BlockSpec { attention, mlp, .. } = &loader.source.spec().blocks[index];
        Ok(Self {
            attention_norm: Norm::load(loader, &attention.before)?,
            attention: Attention::load(loader, &attention.part)?,
            mlp_norm: Norm::load(loader, &mlp.before)?,
            mlp: Gated::load(loader, &mlp.part)?,
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

    /// Decodes the router, and the linear layers at the paths for which `is_wanted` says so.
    pub(crate) fn decode(&mut self, context: Context<'_>, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        for linear in self.layers_mut().flatten().filter(|linear| is_wanted(&linear.path)) {
            linear.weight.decode(context.dtype)?;
        }
        if let Some(router) = &mut self.router {
            router.weight.decode(context.dtype)?;
        }
        Ok(())
    }

    /// Returns the linear layer at `path`, or those of its experts; none where there is none.
    pub(crate) fn linears_mut(&mut self, path: &str) -> &mut [Linear] {
        let mut layers = self.layers_mut();
        layers.find(|layer| layer.first().is_some_and(|linear| *linear.path == *path)).unwrap_or_default()
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut [Linear]> {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut())
    }

    /// Returns the norms of this block, which is described by `spec`, with the names of their weights.
    pub(crate) fn norms_mut(&mut self, spec: &BlockSpec) -> impl Iterator<Item = (String, &mut Norm)> {
        let own =
            [(&spec.attention.before, &mut self.attention_norm), (&spec.mlp.before, &mut self.mlp_norm)];
        let qk_norms = match &spec.attention.part.qk_norm {
            QkNorm::Weighted(norms) => Some(norms.iter()),
            QkNorm::Weightless(_) | QkNorm::None => None,
        };
        let of_heads = qk_norms.into_iter().flatten().zip(self.attention.norms_mut());
        own.into_iter().chain(of_heads).map(|(spec, norm)| (spec.name(), norm))
    }

    /// Computes the block's output [batch, tokens, hidden] from x of that shape. Without a cache the tokens are the
    /// whole sequence.
    pub(crate) fn forward(
        &self,
        context: Context<'_>,
        x: &Array,
        positions: &mut Positions,
        cache: Option<&mut KvCache>,
    ) -> Result<Array> {
        let attended = self.attend(context, x, positions, cache, &mut |_, _| {})?;
        let choice = self.choose(&attended)?;
        self.finish(&attended, choice.as_ref(), &mut |_, _| {})
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
        self.finish(&attended, choice, &mut |_, _| {})
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
        let normed = self.attention_norm.forward(x)?;
        let stream = x.add(self.attention.forward(context.dtype, &normed, positions, cache, observe)?)?;
        let normed = self.mlp_norm.forward(&stream)?;
        let probabilities = self.router.as_ref().map(|router| router.probabilities(&normed));
        Ok(Attended { probabilities: probabilities.transpose()?, stream, normed })
    }

    /// Chooses the experts of the tokens; `None` where the MLP has none. Evaluates.
    pub(crate) fn choose(&self, attended: &Attended) -> Result<Option<Choice>> {
        let Some(router) = &self.router else { return Ok(None) };
        attended.probabilities.as_ref().map(|probabilities| router.choose(probabilities)).transpose()
    }

    /// Computes the MLP and the block's output. `observe` sees the inputs of the linear layers.
    pub(crate) fn finish(
        &self,
        attended: &Attended,
        choice: Option<&Choice>,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        let Attended { stream, normed, probabilities } = attended;
        let added = if let Some(router) = &self.router
            && let Some(probabilities) = probabilities
            && let Some(choice) = choice
        {
            router.forward(&self.mlp, normed, probabilities, choice, observe)?
        } else {
            self.mlp.forward(normed, observe)?
        };
        Ok(stream.add(added)?)
    }
}
