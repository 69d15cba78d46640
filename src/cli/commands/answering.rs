//! Parts that `run` and `chat` share: flags to settings, a model that is ready to answer, and figures of its speed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::caching::{cache_settings, context_note, length_note};
use super::drafting::DraftSource;
use super::templating::for_answers;
use crate::cli::args;
use crate::engine::cache::sequence::CacheSettings;
use crate::engine::decoder::model::Model;
use crate::engine::generate::generate::{Finish, Generation, Settings, generate};
use crate::engine::generate::session::Session;
use crate::engine::generate::speculation::DraftFigures;
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::opening::{Need, open};
use crate::models::source::SourceModel;
use crate::models::spec::DecoderSpec;
use crate::numerics::dtype::Dtype;
use crate::report::Console;
use crate::text::answer::{Answer, Ending};
use crate::text::sampling::{Chosen, Penalties, Repetition, Sampler, Sampling};
use crate::text::stop_tokens::{StopTokens, describe};
use crate::text::tokenizer::Tokenizer;
use crate::words::{bytes, count};

/// A model that answers, with its tokenizer and settings, before it is loaded.
pub struct Source {
    /// Checkpoint of the model.
    pub checkpoint: SourceModel,
    /// Tokenizer of the model.
    pub tokenizer: Tokenizer,
    /// Length of an answer, and the tokens that end it.
    pub settings: Settings,
    /// Texts that end an answer.
    pub ending: Ending,
    /// Tokens that end an answer by the model's own files.
    stop: StopTokens,
    cache: CacheSettings,
    draft: Option<DraftSource>,
}

/// A model in memory, with its draft model if there is one.
pub struct Loaded {
    model: Model,
    draft: Option<Model>,
}

impl Source {
    /// Opens the model and the draft model, and resolves stop tokens and cache. With `ignore_eos` the model's own
    /// tokens do not end an answer.
    pub fn open(asked: &args::Answering, asking: &args::Asking, ignore_eos: bool) -> Result<Self> {
        let ending = Ending::new(asked.ending.stop.clone(), asked.ending.stop_at_boxed)?;
        let checkpoint = open(&asked.model, Need::Weights)?;
        let tokenizer = for_answers(Tokenizer::from_files(checkpoint.files())?, asking)?;
        let mut stop = StopTokens::read(checkpoint.config(), &tokenizer)?;
        if ignore_eos {
            stop = StopTokens::default();
        }
        let all = [stop.ids(), ending.special_tokens(&tokenizer)].concat();
        let settings = Settings {
            max_tokens: asked.ending.max_tokens,
            stop: all,
            prefill_step: asked.cache.prefill_step(),
        };
        let cache = cache_settings(&asked.cache, checkpoint.spec())?;
        let draft = DraftSource::open(&asked.draft, &asked.cache, &checkpoint, &tokenizer)?;
        Ok(Self { checkpoint, tokenizer, settings, ending, stop, cache, draft })
    }

    /// Returns notes on the tokenizer's files and on those that name stop tokens.
    pub fn notes(&self) -> Vec<String> {
        [self.tokenizer.notes(), self.stop.notes()].concat()
    }

    /// Describes the tokens that end an answer, each with the file or flag that names it.
    pub fn stop_tokens(&self) -> String {
        let by_flag = self.settings.stop.iter().skip(self.stop.ids().len());
        let by_flag = by_flag.map(|&id| format!("{} (--stop)", describe(&self.tokenizer, id)));
        let all: Vec<String> = self.stop.described(&self.tokenizer).into_iter().chain(by_flag).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }

    /// Loads model and draft model, and returns the time that took.
    pub fn load(&self, engine: &Engine, dtype: Option<Dtype>) -> Result<(Loaded, Duration)> {
        let started = Instant::now();
        let model = Model::load(engine, &self.checkpoint, dtype)?;
        let draft = self.draft.as_ref().map(|draft| draft.load(engine, dtype)).transpose()?;
        Ok((Loaded { model, draft }, started.elapsed()))
    }

    /// Starts a session with the models `loaded`.
    pub fn session<'a>(&self, loaded: &'a Loaded) -> Session<'a> {
        let draft = self.draft.as_ref().zip(loaded.draft.as_ref());
        Session::new(&loaded.model, self.cache, draft.map(|(source, model)| source.draft(model)))
    }

    /// Returns notes on decisions about the model's weight files.
    pub fn file_notes(&self) -> &[String] {
        self.checkpoint.file_notes()
    }

    /// Returns a note where the context is larger than the model's own.
    pub fn context_note(&self) -> Option<String> {
        context_note(&self.cache, self.checkpoint.spec())
    }

    /// Returns a note where prompt, of so many `tokens`, and answer may not fit into the context.
    pub fn length_note(&self, tokens: usize) -> Option<String> {
        length_note(&self.cache, self.checkpoint.spec(), tokens + self.settings.max_tokens)
    }

    /// Generates an answer to `prompt` until `answer` ends, handing each token and the text that it completed to
    /// `emit`.
    pub fn answer(
        &self,
        loaded: &Loaded,
        session: &mut Session<'_>,
        prompt: &[u32],
        sampler: &mut Sampler,
        answer: &mut Answer<'_>,
        mut emit: impl FnMut(&Chosen, &str) -> Result<()>,
    ) -> Result<Generation> {
        let take = |chosen: &Chosen| {
            let text = answer.push(chosen.token)?;
            emit(chosen, &text)?;
            Ok(if answer.end().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let result = generate(&loaded.model, session, prompt, sampler, &self.settings, take);
        result.map_err(|error| blame_tensor(&self.checkpoint, error))
    }
}

/// Replaces an engine's error by one about the damaged tensor of `model` where there is one, which takes a pass over
/// the weights.
pub fn blame_tensor(model: &SourceModel, error: Error) -> Error {
    match error.kind() {
        ErrorKind::Engine(_) => crate::jobs::write::check_values(model, Dtype::F32).err().unwrap_or(error),
        _ => error,
    }
}

/// Returns the sampler that the flags ask for. Fails where a bias is about a token that the vocabulary lacks.
pub fn sampler(args: &args::Sampling, logprobs: Option<usize>, spec: &DecoderSpec) -> Result<Sampler> {
    let settings = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k as usize,
        min_p: args.min_p,
        penalties: penalties(args, spec)?,
        logprobs,
    };
    Ok(Sampler::new(settings, args.seed.unwrap_or_default()))
}

fn penalties(args: &args::Sampling, spec: &DecoderSpec) -> Result<Penalties> {
    let context = args.repetition_context_size;
    let repetition = args.repetition_penalty.map(|factor| Repetition { factor, context });
    let mut bias = BTreeMap::new();
    for &(token, value) in &args.logit_bias {
        if token as usize >= spec.vocab_size {
            return Err(Error::usage(format!(
                "--logit-bias: token id {token} is not below the vocabulary's size {}",
                spec.vocab_size
            ))
            .hint(format!("this model's ids are 0 to {}", spec.vocab_size.saturating_sub(1))));
        }
        if bias.insert(token, value).is_some() {
            return Err(Error::usage(format!("--logit-bias: token {token} has two biases"))
                .hint("give one, the sum of both"));
        }
    }
    Ok(Penalties { bias, repetition, frequency: args.frequency_penalty, presence: args.presence_penalty })
}

/// Notes flags that change nothing because the likeliest token is always taken.
pub fn note_greedy(args: &args::Sampling, console: &Console) {
    if args.temperature > 0.0 {
        return;
    }
    let idle: Vec<&str> = [
        ("--top-p", args.top_p < 1.0),
        ("--top-k", args.top_k > 0),
        ("--min-p", args.min_p > 0.0),
        ("--seed", args.seed.is_some()),
    ]
    .into_iter()
    .filter_map(|(flag, is_set)| is_set.then_some(flag))
    .collect();
    if !idle.is_empty() {
        console.notes(&[format!("at --temperature 0 {} changes nothing", idle.join(", "))]);
    }
}

/// Returns tokens per second of the prompt (without reused ones) and of the answer.
pub fn rates(prompt: usize, generation: &Generation) -> (f64, f64) {
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    // The first token comes out of the prompt's own pass; a stop token is computed but not counted.
    let steps =
        generation.tokens.len().saturating_sub(usize::from(!matches!(generation.finish, Finish::Stop(_))));
    (rate(prompt - generation.reused, generation.timings.prompt), rate(steps, generation.timings.generation))
}

/// Prints numbers of tokens and their speed.
pub fn print_speed(console: &Console, prompt: usize, generation: &Generation) {
    let (reading, writing) = rates(prompt, generation);
    let reused = match generation.reused {
        0 => String::new(),
        reused => format!(" ({reused} of them from the turns before)"),
    };
    console.line(&format!("prompt: {}{reused}, {reading:.1} tokens/s", count(prompt, "token")));
    // A single token comes out of the prompt's pass.
    let speed = if writing > 0.0 { format!(", {writing:.1} tokens/s") } else { String::new() };
    console.line(&format!("generation: {}{speed}", count(generation.tokens.len(), "token")));
    if let Some(DraftFigures { drafted, accepted }) = generation.drafting {
        let percent = 100.0 * accepted as f64 / drafted.max(1) as f64;
        console.line(&format!(
            "draft model: {accepted} of {} accepted ({percent:.1} %)",
            count(drafted, "token")
        ));
    }
}

/// Prints the size of the cache and the number of forgotten tokens.
pub fn print_cache(console: &Console, generation: &Generation) {
    let forgotten = match generation.cache.evicted {
        0 => String::new(),
        evicted => format!(", {} forgotten", count(evicted, "token")),
    };
    console.line(&format!("cache: {} at most{forgotten}", bytes(generation.cache.bytes as u64)));
}
