//! Flags of the cache to settings, checked against the model.

use crate::cli::args::{Cache, KvDtype};
use crate::engine::cache::sequence::{CacheSettings, ContextWindow, KvStorage};
use crate::error::{Error, Result};
use crate::models::spec::{DecoderSpec, RopeScaling};
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::{AFFINE_GROUP_SIZES, Quant};
use crate::words::count;

/// Returns the cache's settings for the model of `spec`. The context is by default the model's own.
pub fn cache_settings(args: &Cache, spec: &DecoderSpec) -> Result<CacheSettings> {
    refuse_eviction(args, spec)?;
    let size = args.context_size.map(|size| size as usize).or_else(|| trained_context(spec));
    Ok(CacheSettings { context: context_window(args, size)?, storage: storage(args, spec)? })
}

/// Fails where flags ask a model whose keys cannot be turned to forget a part of a text.
fn refuse_eviction(args: &Cache, spec: &DecoderSpec) -> Result<()> {
    let evicting = ["--context-size", "--num-sink-tokens", "--eviction-batch-percent"];
    let flag = args.flags().into_iter().find(|flag| evicting.contains(flag));
    let Some(flag) = flag.filter(|_| !spec.can_turn_keys()) else { return Ok(()) };
    let Some(positions) = &spec.embed.positions else {
        let message =
            "this model's keys have norms after their rotation, so it cannot forget a part of a text";
        return Err(Error::usage(format!("{flag}: {message}")).hint("leave the flag out"));
    };
    let most = positions.count;
    Err(Error::usage(format!(
        "{flag}: this model has {most} learned positions, and cannot forget a part of a text"
    ))
    .hint(format!("leave the flag out: texts have up to {most} tokens")))
}

/// Returns the settings of a draft model's cache: no larger than its own context, and of floats.
pub fn draft_cache_settings(args: &Cache, spec: &DecoderSpec) -> Result<CacheSettings> {
    let sizes = args.context_size.map(|size| size as usize).into_iter().chain(trained_context(spec));
    Ok(CacheSettings { context: context_window(args, sizes.min())?, storage: floats(args) })
}

/// Returns the context that a model was trained for; none for dynamic RoPE, which goes beyond it.
fn trained_context(spec: &DecoderSpec) -> Option<usize> {
    let stretches = spec.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::Dynamic { .. }));
    spec.max_position_embeddings.filter(|_| !stretches)
}

/// Returns a note where a text of so many `tokens` may be longer than the cache, or than the context of the model of
/// `spec`.
pub fn length_note(settings: &CacheSettings, spec: &DecoderSpec, tokens: usize) -> Option<String> {
    let reach = format!("prompt and answer may reach {}", count(tokens, "token"));
    let size = settings.context.map(|context| context.size());
    if let Some(positions) = spec.embed.positions.as_ref().filter(|positions| tokens > positions.count) {
        return Some(format!("{reach}, the model has {} learned positions: then it fails", positions.count));
    }
    if let Some(size) = size.filter(|&size| tokens > size && !spec.can_turn_keys()) {
        return Some(format!("{reach}, the context is {size}: then it fails"));
    }
    if let Some(size) = size.filter(|&size| tokens > size) {
        return Some(format!("{reach}, the context is {size}: then the middle is forgotten"));
    }
    let most = spec.max_position_embeddings.filter(|&most| tokens > most)?;
    Some(format!("{reach}, the model's context is {most}"))
}

/// Returns a note where the context is larger than the one that the model of `spec` was trained for.
pub fn context_note(settings: &CacheSettings, spec: &DecoderSpec) -> Option<String> {
    let size = settings.context?.size();
    let most = trained_context(spec).filter(|&most| size > most)?;
    Some(format!(
        "--context-size {size} is more than the {most} tokens that the model was made for (max_position_embeddings): \
         past them its answers may make no sense"
    ))
}

fn context_window(args: &Cache, size: Option<usize>) -> Result<Option<ContextWindow>> {
    let (sinks, percent) = (args.sinks(), args.eviction_percent());
    size.map(|size| ContextWindow::new(size, sinks, percent)).transpose()
}

/// Returns how floats are stored.
fn floats(args: &Cache) -> KvStorage {
    match args.kv_dtype {
        None => KvStorage::AsComputed,
        Some(KvDtype::Float16) => KvStorage::Float(Dtype::F16),
        Some(KvDtype::Float32) => KvStorage::Float(Dtype::F32),
    }
}

/// Returns how keys and values are stored. Fails where no group size of codes, or not the one asked for, divides the heads.
fn storage(args: &Cache, spec: &DecoderSpec) -> Result<KvStorage> {
    let Some(bits) = args.kv_bits else { return Ok(floats(args)) };
    let head_dim = spec.attentions().next().map_or(0, |attention| attention.head_dim);
    let fits =
        |group_size: &u32| spec.attentions().all(|attention| attention.holds_groups_of(*group_size as usize));
    let group_size = match args.kv_group_size {
        Some(asked) => Some(asked).filter(fits),
        None => [64, 32].into_iter().find(fits),
    };
    if let Some(group_size) = group_size {
        return Ok(KvStorage::Quantized(Quant::affine(bits, group_size)));
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
