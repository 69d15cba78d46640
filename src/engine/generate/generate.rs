//! Generation of tokens: the prompt in chunks through the cache, then one token at a time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::session::Session;
use super::speculation::{Decoder, DraftFigures};
use crate::engine::cache::sequence::CacheFigures;
use crate::engine::decoder::model::Model;
use crate::error::{Error, Result};
use crate::text::sampling::{Chosen, Logprobs, Sampler, are_numbers};

/// Prompt tokens that go through the model at a time by default. On a CPU, steps of 512 tokens are no faster and take 40 MB more
/// (135 M parameters); macOS stands for Metal.
pub const PREFILL_STEP: usize = if cfg!(target_os = "macos") { 512 } else { 256 };

/// Limits of a generation, and how the prompt is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end the text; the text does not include them.
    pub stop: Vec<u32>,
    /// Prompt tokens that go through the model at a time.
    pub prefill_step: usize,
}

impl Settings {
    /// Makes settings with a prompt in the usual steps.
    pub fn new(max_tokens: usize, stop: Vec<u32>) -> Self {
        Self { max_tokens, stop, prefill_step: PREFILL_STEP }
    }
}

/// Reason why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came.
    Stop(u32),
    /// `max_tokens` were generated.
    Length,
    /// The consumer of the tokens asked to stop.
    Enough,
    /// Ctrl-C was pressed.
    Interrupted,
}

/// Durations of the prompt and of the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// From the start to the first token.
    pub prompt: Duration,
    /// From the first token to the end.
    pub generation: Duration,
}

/// Generated tokens, and how they were generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The tokens, without the one that stopped it.
    pub tokens: Vec<u32>,
    /// Reason why generation ended.
    pub finish: Finish,
    /// Log-probabilities of the stop token that came, where the sampler computes them.
    pub stop_logprobs: Option<Logprobs>,
    /// Tokens of the prompt that were in the session's caches.
    pub reused: usize,
    /// Durations of prompt and generation.
    pub timings: Timings,
    /// Statistics of the session's cache, earlier turns included.
    pub cache: CacheFigures,
    /// Statistics of the draft model, where there is one.
    pub drafting: Option<DraftFigures>,
}

/// Continues `prompt`, handing each token to `emit` as it comes. The part of the prompt that is in the `session` is not
/// computed again; the session stays valid after an interruption.
pub fn generate(
    model: &Model,
    session: &mut Session<'_>,
    prompt: &[u32],
    sampler: &mut Sampler,
    settings: &Settings,
    mut emit: impl FnMut(&Chosen) -> Result<ControlFlow<()>>,
) -> Result<Generation> {
    model.check_tokens(prompt)?;
    let started = Instant::now();
    sampler.start(prompt);
    let mut decoder = Decoder::new(model, session, settings.prefill_step);
    let (reused, mut logits) = decoder.prompt(prompt)?;
    let mut tokens = Vec::new();
    let (mut first_token, mut stop_logprobs) = (None, None);
    let finish = loop {
        if tokens.len() == settings.max_tokens {
            break Finish::Length;
        }
        if !are_numbers(&logits) {
            return Err(Error::engine("the model's logits are not numbers").hint(
                "the weights hold NaN or infinite values, or setting `dtype` is too narrow for this model",
            ));
        }
        let chosen = sampler.sample(&mut logits);
        let token = chosen.token;
        // The sampler has applied penalties and masks to the logits.
        if logits.get(token as usize).is_none_or(|x| x.is_nan() || *x == f32::NEG_INFINITY) {
            return Err(Error::usage("no token is left to choose from: all of them are banned")
                .hint("ban fewer with setting `logit_bias`, or lower the penalties"));
        }
        first_token.get_or_insert_with(Instant::now);
        if settings.stop.contains(&token) {
            stop_logprobs = chosen.logprobs;
            break Finish::Stop(token);
        }
        tokens.push(token);
        if emit(&chosen)?.is_break() {
            break Finish::Enough;
        }
        crate::interrupt::check()?;
        if tokens.len() < settings.max_tokens {
            logits = decoder.next(token, settings.max_tokens - tokens.len())?;
        }
    };
    let first = first_token.unwrap_or_else(Instant::now);
    let timings = Timings { prompt: first - started, generation: first.elapsed() };
    let (cache, drafting) = decoder.figures();
    Ok(Generation { tokens, finish, stop_logprobs, reused, timings, cache, drafting })
}
