//! Generating tokens: prompt in chunks through the cache, then one at a time.

use std::time::{Duration, Instant};

use super::array::to_vec;
use super::model::Model;
use crate::error::{Error, Result};
use crate::sample::Sampler;

/// Prompt tokens that go through the model at a time.
const PREFILL_STEP: usize = 512;

/// When to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<u32>,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came.
    Stop(u32),
    /// `max_tokens` were generated.
    Length,
}

/// How long the parts took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// From the start to the first token.
    pub prompt: Duration,
    /// From the first token to the end.
    pub generation: Duration,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The tokens, without the one that stopped it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// How long it took.
    pub timings: Timings,
}

/// Continues `prompt`, handing each token to `emit` as it comes.
pub fn generate(
    model: &Model,
    prompt: &[u32],
    sampler: &mut Sampler,
    settings: &Settings,
    mut emit: impl FnMut(u32) -> Result<()>,
) -> Result<Generation> {
    model.check_tokens(prompt)?;
    let started = Instant::now();
    let mut caches = model.caches();
    let chunks = prompt.len().div_ceil(PREFILL_STEP);
    let mut logits = Vec::new();
    for (index, chunk) in prompt.chunks(PREFILL_STEP).enumerate() {
        crate::interrupt::check()?;
        let output = model.forward(chunk, Some(&mut caches), true)?;
        if index + 1 == chunks {
            logits = to_vec(&output)?;
        }
        caches.settle()?;
    }
    let mut tokens = Vec::new();
    let mut first_token = None;
    let finish = loop {
        if tokens.len() == settings.max_tokens {
            break Finish::Length;
        }
        if !logits.iter().any(|x| x.is_finite()) || logits.iter().any(|x| x.is_nan()) {
            return Err(Error::engine("the model's logits are not numbers")
                .hint("the weights hold NaN or infinite values, or --dtype is too narrow for this model"));
        }
        let token = sampler.sample(&mut logits);
        first_token.get_or_insert_with(Instant::now);
        if settings.stop.contains(&token) {
            break Finish::Stop(token);
        }
        tokens.push(token);
        emit(token)?;
        crate::interrupt::check()?;
        if tokens.len() < settings.max_tokens {
            logits = to_vec(&model.forward(&[token], Some(&mut caches), true)?)?;
        }
    };
    let first = first_token.unwrap_or_else(Instant::now);
    let timings = Timings { prompt: first - started, generation: first.elapsed() };
    Ok(Generation { tokens, finish, timings })
}
