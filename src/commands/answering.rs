//! What `run` and `chat` share: flags to settings, a model that is ready to answer, and how fast it was.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::answer::{Answer, Ending};
use crate::checkpoint::{Dtype, SourceModel};
use crate::cli;
use crate::engine::{self, Engine, Finish, Generation, Model, Session, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::report::Console;
use crate::sample::{Chosen, Penalties, Repetition, Sampler, Sampling};
use crate::spec::DecoderSpec;
use crate::stop_tokens::stop_tokens;
use crate::tokenizer::Tokenizer;

/// A penalty or temperature past this is a slip.
const MOST: f32 = 100.0;

/// A model folder before the model itself is loaded.
pub struct Source {
    /// The checkpoint.
    pub checkpoint: SourceModel,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// When to stop.
    pub settings: Settings,
    /// When to stop, as text.
    pub ending: Ending,
}

impl Source {
    /// Opens `dir` and resolves what ends an answer. With `ignore_eos` the model's own tokens do not.
    pub fn open(dir: &Path, ending: &cli::Ending, ignore_eos: bool) -> Result<Self> {
        let max_tokens = ending.max_tokens;
        let ending = Ending::new(ending.stop.clone(), ending.stop_at_boxed)?;
        let checkpoint = SourceModel::open(dir)?;
        checkpoint.verify()?;
        let tokenizer = Tokenizer::from_files(checkpoint.files())?;
        let mut stop = if ignore_eos { Vec::new() } else { stop_tokens(checkpoint.config(), &tokenizer)? };
        stop.extend(ending.special_tokens(&tokenizer));
        Ok(Self { checkpoint, tokenizer, settings: Settings { max_tokens, stop }, ending })
    }

    /// Loads the model and says how long that took.
    pub fn load(&self, engine: &Engine, dtype: Option<Dtype>) -> Result<(Model, Duration)> {
        let started = Instant::now();
        Ok((Model::load(engine, &self.checkpoint, dtype)?, started.elapsed()))
    }

    /// Answers `prompt` with what `answer` takes, handing each token and the text that it completed to `emit`.
    pub fn answer(
        &self,
        model: &Model,
        session: &mut Session,
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
        let result = engine::generate(model, session, prompt, sampler, &self.settings, take);
        // Which tensor is to blame is worth a pass over the weights once something went wrong.
        result.or_else(|error| match error.kind() {
            ErrorKind::Engine(_) => {
                crate::weights::check_values(&self.checkpoint, Dtype::F32).and(Err(error))
            }
            _ => Err(error),
        })
    }
}

/// Says so when prompt and answer may be longer than what the model was made for.
pub fn note_context(spec: &DecoderSpec, tokens: usize, console: &Console) {
    if let Some(most) = spec.max_position_embeddings.filter(|&most| tokens > most) {
        console
            .notes(&[format!("prompt and answer may reach {tokens} tokens, the model's context is {most}")]);
    }
}

/// The sampler that the flags ask for, for a model of this vocabulary.
pub fn sampler(args: &cli::Sampling, logprobs: Option<usize>, spec: &DecoderSpec) -> Result<Sampler> {
    let settings = Sampling {
        temperature: within("temperature", args.temperature, 0.0, MOST)?,
        top_p: within("top-p", args.top_p, 0.0, 1.0)?,
        top_k: args.top_k as usize,
        min_p: within("min-p", args.min_p, 0.0, 1.0)?,
        penalties: penalties(args, spec)?,
        logprobs,
    };
    Ok(Sampler::new(settings, args.seed))
}

fn penalties(args: &cli::Sampling, spec: &DecoderSpec) -> Result<Penalties> {
    let repetition = match args.repetition_penalty {
        None => None,
        Some(0.0) => {
            return Err(Error::usage("--repetition-penalty 0 is out of range")
                .hint("logits are divided by it: 1 changes nothing"));
        }
        Some(factor) => Some(Repetition {
            factor: within("repetition-penalty", factor, 0.0, MOST)?,
            context: args.repetition_context_size,
        }),
    };
    let mut bias = BTreeMap::new();
    for &(token, value) in &args.logit_bias {
        if token as usize >= spec.vocab_size {
            return Err(Error::usage(format!(
                "--logit-bias: token id {token} is not below the vocabulary's size {}",
                spec.vocab_size
            )));
        }
        if bias.insert(token, value).is_some() {
            return Err(Error::usage(format!("--logit-bias: token {token} has two biases"))
                .hint("give one, the sum of both"));
        }
    }
    Ok(Penalties {
        bias,
        repetition,
        frequency: within("frequency-penalty", args.frequency_penalty, -MOST, MOST)?,
        presence: within("presence-penalty", args.presence_penalty, -MOST, MOST)?,
    })
}

fn within(name: &str, value: f32, least: f32, most: f32) -> Result<f32> {
    if value.is_finite() && (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Error::usage(format!("--{name} {value} is out of range"))
        .hint(format!("it lies between {least} and {most}")))
}

/// Says so where flags change nothing because the likeliest token is always taken.
pub fn note_greedy(args: &cli::Sampling, console: &Console) {
    if args.temperature > 0.0 {
        return;
    }
    let idle: Vec<&str> =
        [("--top-p", args.top_p < 1.0), ("--top-k", args.top_k > 0), ("--min-p", args.min_p > 0.0)]
            .into_iter()
            .filter_map(|(flag, given)| given.then_some(flag))
            .collect();
    if !idle.is_empty() {
        console.notes(&[format!("at --temperature 0 {} changes nothing", idle.join(", "))]);
    }
}

/// Tokens a second of the prompt (those that went through the model) and of the answer.
pub fn rates(prompt: usize, generation: &Generation) -> (f64, f64) {
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    // The first token comes out of the prompt's own pass; a stop token is computed but not counted.
    let steps =
        generation.tokens.len().saturating_sub(usize::from(!matches!(generation.finish, Finish::Stop(_))));
    (rate(prompt - generation.reused, generation.timings.prompt), rate(steps, generation.timings.generation))
}

/// How many tokens there were and how fast.
pub fn summary(console: &Console, prompt: usize, generation: &Generation) {
    let (reading, writing) = rates(prompt, generation);
    let reused = match generation.reused {
        0 => String::new(),
        reused => format!(" ({reused} of them from the turns before)"),
    };
    console.line(&format!("prompt: {prompt} tokens{reused}, {reading:.1} tokens/s"));
    console.line(&format!("generation: {} tokens, {writing:.1} tokens/s", generation.tokens.len()));
}
