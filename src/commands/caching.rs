//! What the user wants remembered, checked against the model.

use crate::cli::Cache;
use crate::engine::{CacheSettings, ContextWindow};
use crate::error::Result;
use crate::spec::DecoderSpec;

/// How the model of `spec` is to remember: as far as it was made for, unless the user says otherwise.
pub fn cache_settings(args: &Cache, spec: &DecoderSpec) -> Result<CacheSettings> {
    let size = args.context_size.map(|size| size as usize).or(spec.max_position_embeddings);
    let sinks = args.num_sink_tokens as usize;
    let window = |size| ContextWindow::new(size, sinks, args.eviction_batch_percent as usize);
    Ok(CacheSettings { context: size.map(window).transpose()?, quant: None })
}

/// What to say when a text of so many `tokens` may be longer than what is remembered.
pub fn eviction_note(settings: &CacheSettings, tokens: usize) -> Option<String> {
    let size = settings.context?.size();
    (tokens > size).then(|| {
        format!(
            "prompt and answer may reach {tokens} tokens, the context is {size}: then the middle is forgotten"
        )
    })
}
