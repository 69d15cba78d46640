//! A loaded model: tokens in, logits out.

use mlx_rs::Array;
use mlx_rs::fast::rms_norm;
use mlx_rs::transforms::eval;

use super::Engine;
use super::array::{from_tokens, slice, to_vec};
use super::attention::Positions;
use super::block::{Block, Context};
use super::cache::KvCache;
use super::linear::Weight;
use super::load::Loader;
use crate::checkpoint::{Dtype, SourceModel};
use crate::error::{Error, Result};
use crate::spec::DecoderSpec;

/// A decoder with its weights in memory.
#[derive(Debug)]
pub struct Model {
    spec: DecoderSpec,
    dtype: Dtype,
    on_gpu: bool,
    ends: Ends,
    blocks: Vec<Block>,
}

/// What comes before the first block and after the last.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) embed: Weight,
    pub(super) norm: Array,
    /// `None`: the embedding.
    pub(super) head: Option<Weight>,
}

impl Ends {
    pub(super) fn load(loader: &Loader<'_>) -> Result<Self> {
        let spec = loader.source.spec();
        let head = (!spec.tie_word_embeddings).then(|| loader.weight(spec.head_name)).transpose()?;
        Ok(Self {
            embed: loader.weight("model.embed_tokens")?,
            norm: loader.float("model.norm.weight")?,
            head,
        })
    }

    /// Token ids [1, tokens] to [1, tokens, hidden].
    pub(super) fn embed(&self, tokens: &Array, dtype: Dtype) -> Result<Array> {
        self.embed.rows(tokens, dtype)
    }

    /// Decodes a quantized head for good.
    pub(super) fn decode_head(&mut self, dtype: Dtype) -> Result<()> {
        self.head.as_mut().unwrap_or(&mut self.embed).decode(dtype)
    }

    /// The head's matrix.
    pub(super) fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// [1, tokens, hidden] to logits [1, tokens, vocabulary].
    pub(super) fn logits(&self, context: Context<'_>, hidden: &Array) -> Result<Array> {
        let normed = rms_norm(hidden, Some(&self.norm), context.spec.rms_norm_eps)?;
        self.head().matmul_transposed(&normed, context.dtype, context.on_gpu)
    }
}

/// The caches of one sequence.
#[derive(Debug)]
pub(super) struct Caches(Vec<KvCache>);

impl Caches {
    /// Tokens seen so far.
    pub(super) fn offset(&self) -> usize {
        self.0.first().map_or(0, KvCache::offset)
    }

    /// Forgets all but the first `length` tokens; false, and they are as before, where one cannot.
    pub(super) fn trim(&mut self, length: usize) -> Result<bool> {
        if !self.0.iter().all(|cache| cache.can_trim(length)) {
            return Ok(false);
        }
        self.0.iter_mut().try_for_each(|cache| cache.trim(length)).map(|()| true)
    }

    /// Evaluates what is held, so that the graph behind it can go.
    pub(super) fn settle(&self) -> Result<()> {
        Ok(eval(self.0.iter().flat_map(KvCache::arrays))?)
    }
}

impl Model {
    /// Loads the model. `dtype` overrides the one that the engine computes in.
    pub fn load(engine: &Engine, source: &SourceModel, dtype: Option<Dtype>) -> Result<Self> {
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => engine.compute_dtype(source.dtype()?),
        };
        let loader = Loader::new(source, dtype);
        let mut blocks = Vec::new();
        for index in 0..source.spec().layers.len() {
            crate::interrupt::check()?;
            blocks.push(Block::load(&loader, index)?);
        }
        Ok(Self {
            spec: source.spec().clone(),
            dtype,
            on_gpu: engine.gpu,
            ends: Ends::load(&loader)?,
            blocks,
        })
    }

    /// What the decoder is made of.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Logits of every position, row-major [tokens, vocabulary], the prompt in chunks of `step` tokens through the
    /// cache (all at once without it if `step` is `None`).
    pub fn logits(&self, tokens: &[u32], step: Option<usize>) -> Result<Vec<f32>> {
        self.check_tokens(tokens)?;
        let Some(step) = step else {
            return to_vec(&self.forward(tokens, None, false)?);
        };
        let mut caches = self.caches();
        let mut logits = Vec::with_capacity(tokens.len() * self.spec.vocab_size);
        for chunk in tokens.chunks(step.max(1)) {
            logits.extend(to_vec(&self.forward(chunk, Some(&mut caches), false)?)?);
        }
        Ok(logits)
    }

    pub(super) fn caches(&self) -> Caches {
        Caches(self.spec.layers.iter().map(|layer| KvCache::new(layer.span)).collect())
    }

    /// Logits [1, tokens, vocabulary], or of the last token only.
    pub(super) fn forward(
        &self,
        tokens: &[u32],
        mut caches: Option<&mut Caches>,
        last: bool,
    ) -> Result<Array> {
        let context = Context { spec: &self.spec, dtype: self.dtype, on_gpu: self.on_gpu };
        let offset = caches.as_ref().map_or(0, |caches| caches.offset());
        let mut positions = Positions::new(&self.spec, offset, tokens.len());
        let mut hidden = self.ends.embed(&from_tokens(tokens), self.dtype)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let cache = caches.as_mut().and_then(|caches| caches.0.get_mut(index));
            hidden = block.forward(context, &hidden, &mut positions, cache)?;
        }
        if last {
            hidden = slice(&hidden, 1, tokens.len() - 1, tokens.len())?;
        }
        self.ends.logits(context, &hidden)
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
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
