//! `mixbit eval`: perplexity on a text, and the distance from a reference.

use serde_json::json;
use std::path::Path;
use std::time::Instant;

use super::figures::print_figures;
use super::settings;
use super::streaming;
use super::templating::refuse_idle;
use crate::cli::args::Eval;
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::files::output_file;
use crate::jobs::evaluation::{Reference, ReferenceWriter};
use crate::jobs::opening::{Need, open};
use crate::jobs::scoring::{Against, Scoring, guessing};
use crate::jobs::settings::sequence_length;
use crate::jobs::texts::{TextInput, windows};
use crate::report::Console;
use crate::text::corpus::Windows;
use crate::words::count;

/// Runs the command.
pub fn run(args: &Eval, console: &Console) -> Result<()> {
    check_outputs(args)?;
    let source = open(&args.model, Need::Weights)?;
    console.notes(&source.spec().notes);
    if args.stream {
        return streaming::run(args, &source, console);
    }
    if let Some(flag) = args.cache.given().first() {
        return Err(Error::usage(format!("{flag} goes with --stream only"))
            .hint("windows are computed without a cache; --sequence-length is their length"));
    }
    let kept = args.reference.as_deref().filter(|path| Reference::is_file(path));
    let kept = kept.map(Reference::open).transpose()?;
    let model = match (&args.reference, &kept) {
        (Some(path), None) => Some(open(path, Need::Weights)?),
        _ => None,
    };
    let length = args.sequence_length.unwrap_or_else(|| sequence_length(source.spec())) as usize;
    let text = TextInput::open(&source, Some(&args.data), &settings::template(&args.template), console)?;
    refuse_idle(&args.template, &[text.text.name()], text.text.has_conversations())?;
    let Windows { windows, left_out } = windows(&source, &text, length, args.max_tokens, console)?;
    if let Some(kept) = &kept {
        same_tokens(kept, &windows)?;
    }
    let against = match (&kept, &model) {
        (Some(kept), _) => Against::Kept(kept),
        (None, Some(model)) => Against::Model(model),
        (None, None) => Against::Nothing,
    };
    let vocabulary = source.spec().vocab_size;
    let writer = args.save_reference.as_deref();
    let mut writer = writer.map(|path| ReferenceWriter::create(path, &windows, vocabulary)).transpose()?;
    let engine = Engine::start()?;
    let scoring =
        Scoring { windows: &windows, batch: args.batch_size as usize, memory: args.activation_memory };
    let started = Instant::now();
    let scores = scoring.run(&engine, &source, &against, writer.as_mut(), console)?;
    let seconds = started.elapsed().as_secs_f64();
    writer.map(ReferenceWriter::finish).transpose()?;
    let summary = scores.summary();
    console.notes(guessing(&summary, source.bitmap().is_empty(), vocabulary).as_slice());
    let computed: usize = windows.iter().map(Vec::len).sum();
    let rate = computed as f64 / seconds;
    let found = windows.first().map_or(0, Vec::len);
    console.line(&format!("{} of {}", count(windows.len(), "window"), count(found, "token")));
    let more = [("tokens_left_out", json!(left_out)), ("sequence_length", json!(length))];
    print_figures(args.json.as_deref(), &summary, rate, more)
}

/// Fails before the work where its results could not be written.
fn check_outputs(args: &Eval) -> Result<()> {
    let json = args.json.as_deref().filter(|path| *path != Path::new("-"));
    if json.is_some() && json == args.save_reference.as_deref() {
        return Err(Error::usage("--json and --save-reference name the same file").hint("give each its own"));
    }
    for path in json.into_iter().chain(args.save_reference.as_deref()) {
        output_file::check(path, args.overwrite)?;
        let reference = args.reference.as_deref().unwrap_or(&args.model);
        output_file::refuse_inputs(path, &[&args.model, reference, &args.data])?;
    }
    Ok(())
}

fn same_tokens(kept: &Reference, windows: &[Vec<u32>]) -> Result<()> {
    if kept.windows == windows {
        return Ok(());
    }
    Err(Error::file(
        kept.path(),
        "was made on other tokens: text, tokenizer, --sequence-length or --max-tokens differ",
    )
    .hint("give the same --data, --sequence-length and --max-tokens as with --save-reference"))
}
