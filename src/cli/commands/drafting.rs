//! The draft model of speculative decoding, whose tokens must be the model's.

use super::caching::draft_cache_settings;
use crate::cli::args::{Cache, Draft as Args};
use crate::engine::cache::sequence::CacheSettings;
use crate::engine::decoder::model::Model;
use crate::engine::generate::session::Draft;
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::jobs::opening::{Need, open};
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;
use crate::text::tokenizer::Tokenizer;

/// A draft model before it is loaded.
pub struct DraftSource {
    checkpoint: SourceModel,
    tokens: usize,
    cache: CacheSettings,
}

impl DraftSource {
    /// Opens the draft model, if the flags name one.
    ///
    /// # Errors
    /// When its vocabulary differs from that of `source`, by size or by its tokens.
    pub fn open(
        args: &Args,
        cache: &Cache,
        source: &SourceModel,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>> {
        let Some(path) = &args.draft_model else { return Ok(None) };
        let checkpoint = open(path, Need::Weights)?;
        let fail = |what: String| {
            Err(Error::file(path, what)
                .hint("a draft model is a smaller one of the same family, with the same tokenizer"))
        };
        let (tokens, expected) = (checkpoint.spec().vocab_size, source.spec().vocab_size);
        if tokens != expected {
            return fail(format!(
                "has a vocabulary of {tokens} tokens, the model {} one of {expected}",
                source.dir().display()
            ));
        }
        // Token ids alone need no tokenizer.
        if Tokenizer::is_in(checkpoint.files()) {
            let other = Tokenizer::from_files(checkpoint.files())?;
            let token = |tokenizer: &Tokenizer, id| tokenizer.id_to_token(id).unwrap_or_default();
            if let Some(id) = (0..tokens as u32).find(|&id| token(&other, id) != token(tokenizer, id)) {
                return fail(format!(
                    "calls token {id} `{}`, the model {} calls it `{}`",
                    token(&other, id),
                    source.dir().display(),
                    token(tokenizer, id)
                ));
            }
        }
        let cache = draft_cache_settings(cache, checkpoint.spec())?;
        Ok(Some(Self { checkpoint, tokens: args.num_draft_tokens as usize, cache }))
    }

    /// Loads the model.
    pub fn load(&self, engine: &Engine, dtype: Option<Dtype>) -> Result<Model> {
        Model::load(engine, &self.checkpoint, dtype)
    }

    /// Returns the drafting of a session by `model`, which [`DraftSource::load`] has loaded.
    pub fn draft<'a>(&self, model: &'a Model) -> Draft<'a> {
        Draft { model, tokens: self.tokens, cache: self.cache }
    }
}
