//! Answers as one JSON object, and the log-probabilities of their tokens as a table.

use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::engine::generate::generate::{Finish, Generation};
use crate::engine::memory;
use crate::error::{Error, Result};
use crate::text::answer::End;
use crate::text::sampling::Logprobs;
use crate::text::tokenizer::Tokenizer;

/// An answer with everything that is reported about it.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Text that was shown.
    pub text: &'a str,
    /// Beginning of the text that the model was given; its tokens are among the prompt's.
    pub prefill: &'a str,
    /// Name and file of the chat template that wrote the prompt.
    pub template: Option<(&'a str, &'a Path)>,
    /// The content of the last box, if there is one.
    pub boxed: Option<&'a str>,
    /// True if the last box is asked for.
    pub extract_boxed: bool,
    /// End that came before the model's own, if any.
    pub end: Option<&'a End>,
    /// Tokens, times and statistics.
    pub generation: &'a Generation,
    /// Log-probabilities, one entry per token of the text, where asked for.
    pub logprobs: Option<&'a [Logprobs]>,
    /// Tokens of the prompt.
    pub prompt: &'a [u32],
    /// Time that loading took.
    pub load: Duration,
    /// Tokens per second: of the prompt, of the answer.
    pub rates: (f64, f64),
}

#[derive(Serialize)]
struct Object<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    boxed: Option<Value>,
    finish_reason: &'a str,
    stopped_by: Option<StoppedBy<'a>>,
    chat_template: Option<Template<'a>>,
    prompt_tokens: &'a [u32],
    #[serde(skip_serializing_if = "str::is_empty")]
    prefill: &'a str,
    /// The stop token included, where one ended the answer.
    tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<TokenLogprob>>,
    timings: Timings,
    cache_bytes: usize,
    tokens_forgotten: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft: Option<Draft>,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StoppedBy<'a> {
    Token(u32),
    String(&'a str),
    Boxed,
}

#[derive(Serialize)]
struct Template<'a> {
    name: &'a str,
    file: &'a Path,
}

#[derive(Serialize)]
struct TokenLogprob {
    token: u32,
    text: String,
    logprob: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<TokenLogprob>,
}

#[derive(Serialize)]
struct Draft {
    drafted: usize,
    accepted: usize,
}

#[derive(Serialize)]
struct Timings {
    load_seconds: f64,
    prompt_seconds: f64,
    generation_seconds: f64,
    prompt_tokens_per_second: f64,
    generation_tokens_per_second: f64,
}

/// Writes the answer as a JSON object on one line.
pub fn answer_json(answered: &Answered<'_>, tokenizer: &Tokenizer) -> Result<String> {
    let generation = answered.generation;
    let (finish_reason, stopped_by) = match (answered.end, generation.finish) {
        (Some(End::String(string)), _) => ("stop", Some(StoppedBy::String(string))),
        (Some(End::Boxed), _) => ("stop", Some(StoppedBy::Boxed)),
        (None, Finish::Stop(token)) => ("stop", Some(StoppedBy::Token(token))),
        (None, Finish::Length | Finish::Enough) => ("length", None),
        (None, Finish::Interrupted) => ("interrupted", None),
    };
    let stop_token = if let Finish::Stop(token) = generation.finish { Some(token) } else { None };
    let tokens: Vec<u32> = generation.tokens.iter().copied().chain(stop_token).collect();
    let logprobs = answered.logprobs.map(|logprobs| {
        let pairs = tokens.iter().zip(logprobs.iter().chain(&generation.stop_logprobs));
        pairs.map(|(&token, logprobs)| entry(token, logprobs, tokenizer)).collect()
    });
    let object = Object {
        text: answered.text,
        boxed: answered.extract_boxed.then(|| answered.boxed.map_or(Value::Null, Value::from)),
        finish_reason,
        stopped_by,
        chat_template: answered.template.map(|(name, file)| Template { name, file }),
        prompt_tokens: answered.prompt,
        prefill: answered.prefill,
        logprobs: logprobs.transpose()?,
        tokens,
        timings: Timings {
            load_seconds: answered.load.as_secs_f64(),
            prompt_seconds: generation.timings.prompt.as_secs_f64(),
            generation_seconds: generation.timings.generation.as_secs_f64(),
            prompt_tokens_per_second: answered.rates.0,
            generation_tokens_per_second: answered.rates.1,
        },
        cache_bytes: generation.cache.bytes,
        tokens_forgotten: generation.cache.evicted,
        draft: generation
            .drafting
            .map(|figures| Draft { drafted: figures.drafted, accepted: figures.accepted }),
        peak_memory_bytes: memory::peak_memory(),
    };
    let line = serde_json::to_string(&object).map_err(|error| Error::io("stdout", error.into()))?;
    Ok(line + "\n")
}

fn entry(token: u32, logprobs: &Logprobs, tokenizer: &Tokenizer) -> Result<TokenLogprob> {
    let one = |token, logprob| {
        let text = tokenizer.decode(&[token], false)?;
        Ok(TokenLogprob { token, text, logprob, top: Vec::new() })
    };
    let top = logprobs.top.iter().map(|&(token, logprob)| one(token, logprob)).collect::<Result<_>>()?;
    Ok(TokenLogprob { top, ..one(token, logprobs.chosen)? })
}

/// Writes one line per token: its log-probability, the token, and the likeliest tokens in its place, separated by tabs.
pub fn logprob_table(tokens: &[u32], logprobs: &[Logprobs], tokenizer: &Tokenizer) -> Result<String> {
    let mut table = String::new();
    for (&token, logprobs) in tokens.iter().zip(logprobs) {
        let entry = entry(token, logprobs, tokenizer)?;
        let _ = write!(table, "{:.4}\t{:?}", entry.logprob, entry.text);
        for other in entry.top {
            let _ = write!(table, "\t{:?} {:.4}", other.text, other.logprob);
        }
        table.push('\n');
    }
    Ok(table)
}
