//! The draft model of speculative decoding: it must speak the model's tokens.

use super::caching::draft_cache_settings;
use crate::checkpoint::SourceModel;
use crate::cli::{Cache, Draft as Args};
use crate::engine::{Draft, Model};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Opens the draft model, if one is wanted.
///
/// # Errors
/// When its vocabulary is another one than that of `source`: by size, or by its tokens.
pub fn open_draft(args: &Args, source: &SourceModel, tokenizer: &Tokenizer) -> Result<Option<SourceModel>> {
    let Some(dir) = &args.draft_model else { return Ok(None) };
    let draft = SourceModel::open(dir)?;
    draft.verify()?;
    let (found, expected) = (draft.spec().vocab_size, source.spec().vocab_size);
    let wrong = |what: String| {
        Err(Error::file(dir, what)
            .hint("a draft model is a smaller one of the same family, with the same tokenizer"))
    };
    if found != expected {
        return wrong(format!(
            "has a vocabulary of {found} tokens, the model {} one of {expected}",
            source.dir().display()
        ));
    }
    // Token ids alone need no tokenizer.
    if dir.join("tokenizer.json").is_file() {
        let other = Tokenizer::from_dir(dir)?;
        let token = |tokenizer: &Tokenizer, id| tokenizer.id_to_token(id).unwrap_or_default();
        if let Some(id) = (0..found as u32).find(|&id| token(&other, id) != token(tokenizer, id)) {
            return wrong(format!(
                "calls token {id} `{}`, the model {} calls it `{}`",
                token(&other, id),
                source.dir().display(),
                token(tokenizer, id)
            ));
        }
    }
    Ok(Some(draft))
}

/// How `model` drafts.
pub fn draft<'a>(args: &Args, cache: &Cache, model: &'a Model) -> Result<Draft<'a>> {
    let tokens = args.num_draft_tokens as usize;
    Ok(Draft { model, tokens, cache: draft_cache_settings(cache, model.spec())? })
}
