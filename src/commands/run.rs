//! `mixbit run`: generate text.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::checkpoint::{Dtype, SourceModel};
use crate::cli::{Run, Sampling as SamplingArgs};
use crate::engine::{self, Engine, Finish, Generation, Model, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Console, bytes, out};
use crate::sample::{Sampler, Sampling};
use crate::spec::DecoderSpec;
use crate::stop_tokens::stop_tokens;
use crate::tokenizer::{Message, Tokenizer};
use crate::weights::check_values;

/// Runs the command.
pub fn run(args: &Run, console: &Console) -> Result<()> {
    let sampling = sampling(&args.sampling)?;
    let source = SourceModel::open(&args.model)?;
    source.verify()?;
    let tokenizer = Tokenizer::from_files(source.files())?;
    let prompt = prompt(args, &tokenizer)?;
    let stop = if args.ignore_eos { Vec::new() } else { stop_tokens(source.config(), &tokenizer)? };
    if args.verbose {
        console.notes(&source.spec().notes);
        console.line(&format!("prompt text: {:?}", tokenizer.decode(&prompt, false)?));
        console.line(&format!("stop tokens: {stop:?}"));
    }
    note_context(source.spec(), prompt.len() + args.max_tokens, console);
    let engine = Engine::start()?;
    let started = Instant::now();
    let model = Model::load(&engine, &source, args.dtype.map(Into::into))?;
    let load = started.elapsed();
    let mut sampler = Sampler::new(sampling, args.sampling.seed);
    let settings = Settings { max_tokens: args.max_tokens, stop };
    let mut stream = tokenizer.stream(true);
    let emit = |token| out(&stream.push(token)?);
    let result = engine::generate(&model, &prompt, &mut sampler, &settings, emit);
    // Which tensor is to blame is worth a pass over the weights once something went wrong.
    let result = result.or_else(|error| match error.kind() {
        ErrorKind::Engine(_) => check_values(&source, Dtype::F32).and(Err(error)),
        _ => Err(error),
    })?;
    out(&format!("{}\n", stream.finish()?))?;
    summary(console, prompt.len(), &result, load, args.verbose);
    Ok(())
}

/// Says so when prompt and answer may be longer than what the model was made for.
fn note_context(spec: &DecoderSpec, tokens: usize, console: &Console) {
    if let Some(most) = spec.max_position_embeddings.filter(|&most| tokens > most) {
        console
            .notes(&[format!("prompt and answer may reach {tokens} tokens, the model's context is {most}")]);
    }
}

fn sampling(args: &SamplingArgs) -> Result<Sampling> {
    let within = |name: &str, value: f32, most: f32| {
        if value.is_finite() && (0.0..=most).contains(&value) {
            return Ok(value);
        }
        Err(Error::usage(format!("--{name} {value} is out of range"))
            .hint(format!("it lies between 0 and {most}")))
    };
    Ok(Sampling {
        temperature: within("temperature", args.temperature, 100.0)?,
        top_p: within("top-p", args.top_p, 1.0)?,
        top_k: args.top_k as usize,
        min_p: within("min-p", args.min_p, 1.0)?,
    })
}

/// The prompt's tokens: through the chat template where there is one, BOS once.
fn prompt(args: &Run, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    if !args.prompt_tokens.is_empty() {
        return Ok(args.prompt_tokens.clone());
    }
    let text = match args.prompt.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|e| Error::io("stdin", e))?;
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
        Some(text) => text.to_owned(),
        None => String::new(),
    };
    if text.is_empty() {
        return Err(
            Error::usage("the prompt is empty").hint("give --prompt TEXT, or text on stdin with --prompt -")
        );
    }
    if args.disable_chat_template {
        return tokenizer.encode(&text, true);
    }
    let rendered = chat_text(tokenizer, &text, args.system.as_deref());
    let rendered = rendered.map_err(|error| match error.kind() {
        ErrorKind::Usage(_) => error,
        _ => error.hint("--disable-chat-template gives the model the prompt as it is"),
    })?;
    if rendered.is_none() && args.system.is_some() {
        return Err(Error::usage("--system needs a chat template, and this model has none")
            .hint("put the text into --prompt"));
    }
    encode_chat(tokenizer, rendered.as_deref(), &text)
}

/// A user's `text` after a system message as the chat template writes it, where there is one.
pub fn chat_text(tokenizer: &Tokenizer, text: &str, system: Option<&str>) -> Result<Option<String>> {
    let mut messages = vec![Message::new("user", text)];
    if let Some(system) = system {
        messages.insert(0, Message::new("system", system));
    }
    tokenizer.apply_chat_template(&messages, true)
}

/// The tokens of what the template wrote, or of the text itself; BOS once, and the template writes it where the model
/// wants one.
pub fn encode_chat(tokenizer: &Tokenizer, rendered: Option<&str>, text: &str) -> Result<Vec<u32>> {
    rendered.map_or_else(|| tokenizer.encode(text, true), |rendered| tokenizer.encode(rendered, false))
}

fn summary(console: &Console, prompt: usize, result: &Generation, load: Duration, verbose: bool) {
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    // The first token comes out of the prompt's own pass.
    let steps = result.tokens.len().saturating_sub(usize::from(result.finish == Finish::Length));
    console.line(&format!("prompt: {prompt} tokens, {:.1} tokens/s", rate(prompt, result.timings.prompt)));
    console.line(&format!(
        "generation: {} tokens, {:.1} tokens/s",
        result.tokens.len(),
        rate(steps, result.timings.generation)
    ));
    let peak = engine::peak_memory().map_or_else(|| "unknown".to_owned(), bytes);
    console.line(&format!("peak memory: {peak}, load time: {:.2} s", load.as_secs_f64()));
    if verbose {
        console.line(&match result.finish {
            Finish::Stop(token) => format!("finished by stop token {token}"),
            Finish::Length => "finished by --max-tokens".to_owned(),
        });
    }
}
