//! What the user wants remembered, checked against the model.

use crate::cli::args::Cache;
use crate::engine::cache::sequence::{CacheSettings, ContextWindow};
use crate::error::{Error, Result};
use crate::models::spec::{DecoderSpec, RopeScaling};
use crate::numerics::quant::{AFFINE_GROUP_SIZES, Quant};
use crate::words::count;

/// How the model of `spec` is to remember: as far as it was made for, unless the user says otherwise.
pub fn cache_settings(args: &Cache, spec: &DecoderSpec) -> Result<CacheSettings> {
    let size = args.context_size.map(|size| size as usize).or_else(|| made_for(spec));
    Ok(CacheSettings { context: window(args, size)?, quant: quant(args, spec)? })
}

/// How a draft model remembers: no further than it was made for, and as it computes.
pub fn draft_cache_settings(args: &Cache, spec: &DecoderSpec) -> Result<CacheSettings> {
    let size = args.context_size.map(|size| size as usize).into_iter().chain(made_for(spec));
    Ok(CacheSettings { context: window(args, size.min())?, quant: None })
}

/// The context that a model was made for. Dynamic RoPE is there to go beyond it.
fn made_for(spec: &DecoderSpec) -> Option<usize> {
    let stretches = matches!(spec.rope.scaling, RopeScaling::Dynamic { .. });
    spec.max_position_embeddings.filter(|_| !stretches)
}

/// What to say when a text of so many `tokens` may be longer than what is remembered, or than what the model of `spec`
/// was made for.
pub fn length_note(settings: &CacheSettings, spec: &DecoderSpec, tokens: usize) -> Option<String> {
    let reach = format!("prompt and answer may reach {}", count(tokens, "token"));
    let size = settings.context.map(|context| context.size());
    if let Some(size) = size.filter(|&size| tokens > size) {
        return Some(format!("{reach}, the context is {size}: then the middle is forgotten"));
    }
    let most = spec.max_position_embeddings.filter(|&most| tokens > most)?;
    Some(format!("{reach}, the model's context is {most}"))
}

/// What to say of a context that is larger than what the model of `spec` was trained for.
pub fn context_note(settings: &CacheSettings, spec: &DecoderSpec) -> Option<String> {
    let size = settings.context?.size();
    let most = made_for(spec).filter(|&most| size > most)?;
    Some(format!(
        "--context-size {size} is more than the {most} tokens that the model was made for (max_position_embeddings): \
         past them its answers may make no sense"
    ))
}

fn window(args: &Cache, size: Option<usize>) -> Result<Option<ContextWindow>> {
    let (sinks, percent) = (args.sinks(), args.eviction_percent());
    size.map(|size| ContextWindow::new(size, sinks, percent)).transpose()
}

fn quant(args: &Cache, spec: &DecoderSpec) -> Result<Option<Quant>> {
    let Some(bits) = args.kv_bits else { return Ok(None) };
    let head_dim = spec.head_dim;
    let fits = |group_size: &u32| head_dim.is_multiple_of(*group_size as usize);
    let group_size = match args.kv_group_size {
        Some(asked) => Some(asked).filter(fits),
        None => [64, 32].into_iter().find(fits),
    };
    if let Some(group_size) = group_size {
        return Ok(Some(Quant::affine(bits, group_size)));
    }
    let fitting: Vec<u32> = AFFINE_GROUP_SIZES.into_iter().filter(fits).collect();
    let what = match args.kv_group_size {
        Some(asked) => format!("--kv-group-size {asked} does not divide"),
        None => format!("--kv-bits {bits}: none of MLX's group sizes {AFFINE_GROUP_SIZES:?} divides"),
    };
    let hint = if fitting.is_empty() {
        "leave it out: keys and values of this model cannot be quantized".to_owned()
    } else {
        format!("take one of {fitting:?}")
    };
    Err(Error::usage(format!("{what} the model's head_dim {head_dim}")).hint(hint))
}
