//! An answer as one JSON object, and how likely its tokens were as a table.

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

/// All about one answer.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// What was shown.
    pub text: &'a str,
    /// What of it was given to the model; its tokens are among the prompt's.
    pub prefill: &'a str,
    /// Name and file of the chat template that wrote the prompt.
    pub template: Option<(&'a str, &'a Path)>,
    /// The content of the last box, if there is one.
    pub boxed: Option<&'a str>,
    /// Whether that is asked for.
    pub extract_boxed: bool,
    /// What ended the text before the model did.
    pub end: Option<&'a End>,
    /// Tokens and times.
    pub generation: &'a Generation,
    /// One a token, where asked for.
    pub logprobs: Option<&'a [Logprobs]>,
    /// The prompt's tokens.
    pub prompt: &'a [u32],
    /// How long loading took.
    pub load: Duration,
    /// Tokens a second: of the prompt, of the answer.
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
    tokens: &'a [u32],
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

/// The object on one line.
pub fn answer_json(answered: &Answered<'_>, tokenizer: &Tokenizer) -> Result<String> {
    let generation = answered.generation;
    let (finish_reason, stopped_by) = match (answered.end, generation.finish) {
        (Some(End::String(string)), _) => ("stop", Some(StoppedBy::String(string))),
        (Some(End::Boxed), _) => ("stop", Some(StoppedBy::Boxed)),
        (None, Finish::Stop(token)) => ("stop", Some(StoppedBy::Token(token))),
        (None, Finish::Length | Finish::Enough) => ("length", None),
        (None, Finish::Interrupted) => ("interrupted", None),
    };
    let logprobs = answered.logprobs.map(|logprobs| {
        generation.tokens.iter().zip(logprobs).map(|(&token, found)| entry(token, found, tokenizer)).collect()
    });
    let object = Object {
        text: answered.text,
        boxed: answered.extract_boxed.then(|| answered.boxed.map_or(Value::Null, Value::from)),
        finish_reason,
        stopped_by,
        chat_template: answered.template.map(|(name, file)| Template { name, file }),
        prompt_tokens: answered.prompt,
        prefill: answered.prefill,
        tokens: &generation.tokens,
        logprobs: logprobs.transpose()?,
        timings: Timings {
            load_seconds: answered.load.as_secs_f64(),
            prompt_seconds: generation.timings.prompt.as_secs_f64(),
            generation_seconds: generation.timings.generation.as_secs_f64(),
            prompt_tokens_per_second: answered.rates.0,
            generation_tokens_per_second: answered.rates.1,
        },
        cache_bytes: generation.cache.bytes,
        tokens_forgotten: generation.cache.evicted,
        draft: generation.drafting.map(|found| Draft { drafted: found.drafted, accepted: found.accepted }),
        peak_memory_bytes: memory::peak_memory(),
    };
    let line = serde_json::to_string(&object).map_err(|error| Error::io("stdout", error.into()))?;
    Ok(line + "\n")
}

fn entry(token: u32, found: &Logprobs, tokenizer: &Tokenizer) -> Result<TokenLogprob> {
    let one = |token, logprob| {
        let text = tokenizer.decode(&[token], false)?;
        Ok(TokenLogprob { token, text, logprob, top: Vec::new() })
    };
    let top = found.top.iter().map(|&(token, logprob)| one(token, logprob)).collect::<Result<_>>()?;
    Ok(TokenLogprob { top, ..one(token, found.chosen)? })
}

/// A line a token: its log-probability, the token, and those that were likeliest in its place, separated by tabs.
pub fn logprob_table(tokens: &[u32], logprobs: &[Logprobs], tokenizer: &Tokenizer) -> Result<String> {
    let mut table = String::new();
    for (&token, found) in tokens.iter().zip(logprobs) {
        let entry = entry(token, found, tokenizer)?;
        let _ = write!(table, "{:.4}\t{:?}", entry.logprob, entry.text);
        for other in entry.top {
            let _ = write!(table, "\t{:?} {:.4}", other.text, other.logprob);
        }
        table.push('\n');
    }
    Ok(table)
}
