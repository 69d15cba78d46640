//! A loaded model: tokens in, logits out.

use mlx_rs::Array;
use std::ops::Range;

use super::block::Block;
use super::embedding::Embedding;
use super::linear::Weight;
use super::load::{Halves, Loader};
use super::mlp::{Context, Nodes};
use super::norm::Norm;
use super::positions::Positions;
use crate::engine::array::{capped, factor, from_tokens, slice, to_vec, vector_jacobian_products};
use crate::engine::cache::sequence::{CacheFigures, CacheSettings, Caches};
use crate::engine::fused;
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::models::source::SourceModel;
use crate::models::spec::DecoderSpec;
use crate::numerics::dtype::Dtype;

/// Decoder with its weights in memory.
#[derive(Debug)]
pub struct Model {
    spec: DecoderSpec,
    dtype: Dtype,
    on_gpu: bool,
    embed: Embedding,
    head: Head,
    blocks: Vec<Block>,
    nodes: Nodes,
}

/// Number of tokens up to which nodes are computed as they are made.
const MOST_EAGER_TOKENS: usize = 16;

/// Final norm and output matrix, which come after the last block.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) norm: Norm,
    /// Matrix [vocabulary, hidden]; the embedding where the two are tied.
    pub(crate) weight: Weight,
    /// Bias [vocabulary].
    pub(crate) bias: Option<Array>,
    pub(crate) scale: Option<f32>,
    pub(crate) cap: Option<f32>,
}

/// Tokens of a pass whose logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogitsOf {
    EveryToken,
    LastToken,
}

impl Head {
    pub(crate) fn load(loader: &Loader<'_>) -> Result<Self> {
        let DecoderSpec { embed, head, .. } = loader.source.spec();
        let path = if head.tied { &embed.path } else { &head.path };
        Self::with_weight(loader, loader.weight(path)?)
    }

    /// Makes a head of the matrix, which may be shared.
    fn with_weight(loader: &Loader<'_>, weight: Weight) -> Result<Self> {
        let spec = &loader.source.spec().head;
        let bias = (spec.bias && !spec.tied).then(|| loader.float(&format!("{}.bias", spec.path)));
        let norm = Norm::load(loader, &spec.norm)?;
        Ok(Self { norm, weight, bias: bias.transpose()?, scale: spec.scale, cap: spec.cap })
    }

    /// Applies the final norm to the last hidden states [.., tokens, hidden].
    pub(crate) fn normed(&self, hidden: &Array) -> Result<Array> {
        self.norm.forward(hidden)
    }

    /// Computes the logits [1, tokens, vocabulary] of hidden states [1, tokens, hidden].
    pub(crate) fn logits(&self, hidden: &Array) -> Result<Array> {
        self.shaped(self.weight.matmul_transposed(&self.normed(hidden)?)?, None)
    }

    /// Returns the logits that products with some `rows` of the matrix, or with all, become.
    pub(crate) fn shaped(&self, products: Array, rows: Option<&Range<usize>>) -> Result<Array> {
        let products = match (&self.bias, rows) {
            (Some(bias), Some(rows)) => products.add(slice(bias, 0, rows.start, rows.end)?)?,
            (Some(bias), None) => products.add(bias)?,
            (None, _) => products,
        };
        let products = match self.scale {
            Some(scale) => products.multiply(factor(scale, &products)?)?,
            None => products,
        };
        match self.cap {
            Some(cap) => capped(&products, cap),
            None => Ok(products),
        }
    }

    /// Turns gradients with respect to the logits of `products` with `rows` into those with respect to the products.
    pub(crate) fn unshaped(&self, products: &Array, rows: &Range<usize>, gradients: Array) -> Result<Array> {
        if self.scale.is_none() && self.cap.is_none() {
            return Ok(gradients);
        }
        let logits = |primals: &[Array]| self.shaped(primals[0].clone(), Some(rows));
        Ok(vector_jacobian_products(logits, std::slice::from_ref(products), gradients)?.swap_remove(0))
    }
}

impl Model {
    /// Loads the model. `dtype` overrides the one that the engine computes in.
    pub fn load(engine: &Engine, source: &SourceModel, dtype: Option<Dtype>) -> Result<Self> {
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => engine.compute_dtype(source.dtype()?),
        };
        let loader = Loader { halves: Halves::Kept, ..Loader::new(source, dtype) };
        let mut blocks = Vec::new();
        for index in 0..source.spec().blocks.len() {
            crate::interrupt::check()?;
            blocks.push(Block::load(&loader, index)?);
        }
        let embed = Embedding::load(&loader)?;
        // One copy serves both ends.
        let head = if source.spec().head.tied {
            Head::with_weight(&loader, embed.weight().clone())?
        } else {
            Head::load(&loader)?
        };
        let (spec, on_gpu) = (source.spec().clone(), engine.gpu);
        Ok(Self { spec, dtype, on_gpu, embed, head, blocks, nodes: Nodes::Fused })
    }

    /// Returns the decoder's architecture.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Computes the logits of every position, row-major [tokens, vocabulary], with the prompt in chunks of `step`
    /// tokens through the cache (all at once without it if `step` is `None`).
    pub fn logits(&self, tokens: &[u32], step: Option<usize>) -> Result<Vec<f32>> {
        self.check_tokens(tokens)?;
        let Some(step) = step else {
            return to_vec(&self.forward(tokens, None, LogitsOf::EveryToken)?);
        };
        let mut logits = Vec::with_capacity(tokens.len() * self.spec.vocab_size);
        self.stream(tokens, &CacheSettings::default(), step, |rows| {
            logits.extend(rows);
            Ok(())
        })?;
        Ok(logits)
    }

    /// Hands the logits of all positions in order to `each`, as rows [some tokens, vocabulary]. The tokens go through a
    /// cache, `step` at a time.
    pub fn stream(
        &self,
        tokens: &[u32],
        settings: &CacheSettings,
        step: usize,
        mut each: impl FnMut(Vec<f32>) -> Result<()>,
    ) -> Result<CacheFigures> {
        self.check_tokens(tokens)?;
        let mut caches = Caches::new(&self.spec, settings, 0);
        self.feed(tokens, &mut caches, step, LogitsOf::EveryToken, |logits| each(to_vec(&logits)?))?;
        Ok(caches.figures())
    }

    /// Feeds tokens to the caches, at most `step` at a time and as many as there is room for, and hands the logits of
    /// each part (or of its last token) to `each`.
    pub(crate) fn feed(
        &self,
        mut tokens: &[u32],
        caches: &mut Caches,
        step: usize,
        logits: LogitsOf,
        mut each: impl FnMut(Array) -> Result<()>,
    ) -> Result<()> {
        caches.announce(tokens.len());
        while !tokens.is_empty() {
            crate::interrupt::check()?;
            let count = caches.evict_if_full(&self.spec)?.min(step.max(1)).min(tokens.len());
            let (now, later) = tokens.split_at(count);
            each(self.forward(now, Some(caches), logits)?)?;
            // The last part is evaluated with its logits.
            if !later.is_empty() {
                caches.settle()?;
            }
            tokens = later;
        }
        Ok(())
    }

    /// Computes the logits [1, tokens, vocabulary], or those of the last token [1, 1, vocabulary].
    pub(crate) fn forward(
        &self,
        tokens: &[u32],
        caches: Option<&mut Caches>,
        logits: LogitsOf,
    ) -> Result<Array> {
        self.forward_rows(&from_tokens(tokens), caches, self.nodes, logits)
    }

    /// Reads rows of tokens, all of one length, and computes the logits after the last token of each, row-major [rows,
    /// vocabulary]. The caches are those of the same rows.
    pub(crate) fn next_logits(&self, rows: &[&[u32]], caches: &mut Caches) -> Result<Vec<f32>> {
        let tokens = rows.first().map_or(0, |row| row.len());
        let ids = Array::from_slice(&rows.concat(), &[rows.len() as i32, tokens as i32]);
        // Nodes that do several operations at once know one row.
        to_vec(&self.forward_rows(&ids, Some(caches), Nodes::Single, LogitsOf::LastToken)?)
    }

    /// Computes the logits [rows, tokens, vocabulary] of `ids` [rows, tokens], or those of the last tokens.
    fn forward_rows(
        &self,
        ids: &Array,
        mut caches: Option<&mut Caches>,
        nodes: Nodes,
        logits: LogitsOf,
    ) -> Result<Array> {
        let Self { spec, dtype, on_gpu, .. } = self;
        let context = Context { spec, dtype: *dtype, on_gpu: *on_gpu, nodes };
        let tokens = ids.shape()[1] as usize;
        let mut positions = match &caches {
            Some(caches) => Positions::at(&self.spec, caches.place(), tokens),
            None => Positions::new(&self.spec, 0, tokens),
        };
        let mut hidden = self.embed.rows(ids, positions.seen(), self.dtype)?;
        let is_short = caches.is_some() && tokens <= MOST_EAGER_TOKENS;
        let is_eager = is_short && nodes == Nodes::Fused && *dtype == Dtype::F32 && !on_gpu;
        let _eager = if is_eager { fused::eager(&hidden)? } else { None };
        for (index, block) in self.blocks.iter().enumerate() {
            let cache = caches.as_mut().and_then(|caches| caches.layer(index));
            hidden = block.forward(context, &hidden, &mut positions, cache)?;
        }
        if let Some(caches) = caches {
            caches.advance(tokens);
        }
        if logits == LogitsOf::LastToken {
            hidden = slice(&hidden, 1, tokens - 1, tokens)?;
        }
        self.head.logits(&hidden)
    }

    /// Returns the model with an operation per node.
    #[cfg(test)]
    pub(crate) fn with_single_nodes(self) -> Self {
        Self { nodes: Nodes::Single, ..self }
    }

    /// Returns the model with one of its layers.
    #[cfg(test)]
    pub(crate) fn one_layer(mut self, index: usize) -> Self {
        self.spec.blocks = vec![self.spec.blocks.swap_remove(index)];
        self.blocks = vec![self.blocks.swap_remove(index)];
        self
    }

    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::usage("no tokens: the prompt is empty").hint("give at least one token"));
        }
        match tokens.iter().find(|&&token| token as usize >= self.spec.vocab_size) {
            Some(token) => Err(Error::usage(format!(
                "token id {token} is not below the vocabulary's size {}",
                self.spec.vocab_size
            ))
            .hint("if this id came from a text, tokenizer and model do not belong together")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::array::from_vec;

    #[test]
    fn bias_of_the_head_is_added_to_logits() {
        let _engine = Engine::start().unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/mistral-untied-float16");
        let source = SourceModel::open(&folder).unwrap();
        let mut head = Head::load(&Loader::new(&source, Dtype::F32)).unwrap();
        let hidden = from_vec((0..64_u8).map(|x| f32::from(x).sin()).collect(), &[1, 1, 64]);
        let without = to_vec(&head.logits(&hidden).unwrap()).unwrap();
        let bias: Vec<f32> = (0..64_u8).map(f32::from).collect();
        head.bias = Some(from_vec(bias.clone(), &[64]));
        let with = to_vec(&head.logits(&hidden).unwrap()).unwrap();
        let sums: Vec<f32> = without.iter().zip(&bias).map(|(logit, bias)| logit + bias).collect();
        assert_eq!(with, sums);
        let part = from_vec(without[3..5].to_vec(), &[1, 2]);
        assert_eq!(to_vec(&head.shaped(part, Some(&(3..5))).unwrap()).unwrap(), sums[3..5]);
    }
}
