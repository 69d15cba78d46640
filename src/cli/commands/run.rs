//! `mixbit run`: generate text.

use std::path::Path;
use std::time::{Duration, Instant};

use super::answering::{Loaded, Source, note_greedy, print_cache, print_speed, rates, sampler};
use super::prompting::{RenderedPrompt, prompt};
use crate::cli::args::Run;
use crate::engine::cache::sequence::CacheFigures;
use crate::engine::generate::generate::{Finish, Generation, Timings};
use crate::engine::memory;
use crate::engine::runtime::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Answered, Console, answer_json, logprob_table, out};
use crate::text::answer::{Answer, End, last_boxed};
use crate::text::sampling::{Logprobs, Sampler};
use crate::words::bytes;

/// Runs the command.
pub fn run(args: &Run, console: &Console) -> Result<()> {
    check_flags(args)?;
    let source = Source::open(&args.answering, &args.asking, args.ignore_eos)?;
    let spec = source.checkpoint.spec();
    let mut sampler = sampler(&args.answering.sampling, args.show.logprobs, spec)?;
    note_greedy(&args.answering.sampling, console);
    let (prompt, RenderedPrompt { rendered, prefill }) = prompt(args, &source.tokenizer)?;
    let template = rendered.as_ref().map(|_| source.tokenizer.template_in_use()).transpose()?.flatten();
    if template.is_some() {
        console.notes(&source.tokenizer.template_notes());
    }
    print_notes(console, args, &source, template, &prompt)?;
    let engine = Engine::start()?;
    let (loaded, load) = source.load(&engine, args.answering.dtype.map(Into::into))?;
    let answer = generate(args, &source, &loaded, &mut sampler, &prompt, &prefill)?;
    let GeneratedAnswer { text, end, generation, logprobs } = &answer;
    let answered = Answered {
        boxed: last_boxed(text),
        extract_boxed: args.show.extract_boxed,
        text,
        prefill: &prefill,
        template,
        end: end.as_ref(),
        generation,
        logprobs: args.show.logprobs.map(|_| logprobs.as_slice()),
        prompt: &prompt,
        load,
        rates: rates(prompt.len(), generation),
    };
    report(args, &answered, &source)?;
    if generation.finish == Finish::Interrupted {
        return Err(Error::interrupted());
    }
    print_speed(console, prompt.len(), generation);
    print_details(console, args, generation, end.as_ref(), load);
    check_boxed(args, &answered, console)
}

/// Fails where flags exclude each other.
fn check_flags(args: &Run) -> Result<()> {
    if args.show.extract_boxed && args.show.logprobs.is_some() && !args.show.json {
        return Err(Error::usage("--extract-boxed prints nothing but the box, and --logprobs a table")
            .hint("leave one out; with --json there is room for both"));
    }
    Ok(())
}

/// Answer of a model, whole or interrupted.
struct GeneratedAnswer {
    /// Text that was shown.
    text: String,
    /// End that came before the model's own, if any.
    end: Option<End>,
    generation: Generation,
    /// Log-probabilities, one entry per token, where asked for.
    logprobs: Vec<Logprobs>,
}

/// Generates the answer to `prompt`, which begins with `prefill`, and shows its text meanwhile unless something else is
/// to be printed.
fn generate(
    args: &Run,
    source: &Source,
    loaded: &Loaded,
    sampler: &mut Sampler,
    prompt: &[u32],
    prefill: &str,
) -> Result<GeneratedAnswer> {
    let streams = !args.show.json && !args.show.extract_boxed;
    let show = |text: &str| if streams { out(text) } else { Ok(()) };
    let mut answer = Answer::new(&source.tokenizer, &source.ending);
    show(&answer.begin_with(prefill.to_owned()))?;
    let (mut logprobs, mut partial) = (Vec::new(), PartialAnswer::new());
    let mut session = source.session(loaded);
    let result = source.answer(loaded, &mut session, prompt, sampler, &mut answer, |chosen, text| {
        logprobs.extend(chosen.logprobs.clone());
        partial.push(chosen.token);
        show(text)
    });
    let generation = match result {
        // With --json an interrupted answer is an object too.
        Err(error) if args.show.json && matches!(error.kind(), ErrorKind::Interrupted) => {
            partial.generation(session.figures())
        }
        result => result?,
    };
    let (rest, text, end) = answer.finish()?;
    show(&format!("{rest}\n"))?;
    Ok(GeneratedAnswer { text, end, generation, logprobs })
}

/// Prints notes on the model and the prompt; with --verbose also the prompt as the model sees it, and stop tokens.
fn print_notes(
    console: &Console,
    args: &Run,
    source: &Source,
    template: Option<(&str, &Path)>,
    prompt: &[u32],
) -> Result<()> {
    console.notes(if args.show.verbose { &source.checkpoint.spec().notes } else { source.file_notes() });
    if args.show.verbose {
        if let Some((name, path)) = template {
            console.line(&format!("chat template: {name}, {}", path.display()));
        }
        console.line(&format!("prompt text: {:?}", source.tokenizer.decode(prompt, false)?));
        console.line(&format!("stop tokens: {}", source.stop_tokens()));
    }
    console.notes(&source.notes());
    console.notes(source.context_note().as_slice());
    console.notes(source.length_note(prompt.len()).as_slice());
    Ok(())
}

/// Tokens of an answer that may be interrupted.
struct PartialAnswer {
    started: Instant,
    first: Option<Instant>,
    tokens: Vec<u32>,
}

impl PartialAnswer {
    fn new() -> Self {
        Self { started: Instant::now(), first: None, tokens: Vec::new() }
    }

    fn push(&mut self, token: u32) {
        self.first.get_or_insert_with(Instant::now);
        self.tokens.push(token);
    }

    /// Returns the interrupted generation.
    fn generation(self, cache: CacheFigures) -> Generation {
        let first = self.first.unwrap_or_else(Instant::now);
        let timings = Timings { prompt: first - self.started, generation: first.elapsed() };
        let (tokens, finish) = (self.tokens, Finish::Interrupted);
        Generation { tokens, finish, stop_logprobs: None, reused: 0, timings, cache, drafting: None }
    }
}

/// Prints JSON, the boxed content or log-probabilities, which are not shown while the answer is generated.
fn report(args: &Run, answered: &Answered<'_>, source: &Source) -> Result<()> {
    if args.show.json {
        return out(&answer_json(answered, &source.tokenizer)?);
    }
    if let Some(content) = answered.boxed.filter(|_| args.show.extract_boxed) {
        out(&format!("{content}\n"))?;
    }
    match answered.logprobs {
        Some(logprobs) => out(&logprob_table(&answered.generation.tokens, logprobs, &source.tokenizer)?),
        None => Ok(()),
    }
}

/// Prints memory and load time, and with --verbose the cache and the end of the answer.
fn print_details(console: &Console, args: &Run, generation: &Generation, end: Option<&End>, load: Duration) {
    let peak = memory::peak_memory().map_or_else(|| "unknown".to_owned(), bytes);
    console.line(&format!("peak memory: {peak}, load time: {:.2} s", load.as_secs_f64()));
    if args.show.verbose {
        print_cache(console, generation);
        console.line(&match (end, generation.finish) {
            (Some(End::String(string)), _) => format!("finished by stop string {string:?}"),
            (Some(End::Boxed), _) => "finished by the end of a box".to_owned(),
            (None, Finish::Stop(token)) => format!("finished by stop token {token}"),
            (None, Finish::Length | Finish::Enough) => "finished by --max-tokens".to_owned(),
            (None, Finish::Interrupted) => "interrupted".to_owned(),
        });
    }
}

/// Fails where `--extract-boxed` asks for a box and the answer has none.
fn check_boxed(args: &Run, answered: &Answered<'_>, console: &Console) -> Result<()> {
    if !args.show.extract_boxed || answered.boxed.is_some() {
        return Ok(());
    }
    if !args.show.json {
        console.line(&format!("the answer: {}", answered.text));
    }
    let error = Error::no_answer("there is no \\boxed{} in the answer");
    Err(match answered.generation.finish {
        Finish::Length => error.hint("the answer was cut off: raise --max-tokens"),
        Finish::Stop(_) | Finish::Enough | Finish::Interrupted => error.hint("--final-only asks for one"),
    })
}
