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
use crate::files::output_file::Existing;
use crate::jobs::evaluate::EvaluationSettings;
use crate::jobs::evaluation::{Reference, ReferenceWriter};
use crate::jobs::opening::{Need, open};
use crate::jobs::scoring::Against;
use crate::models::source::SourceModel;
use crate::report::Console;
use crate::words::count;

/// Runs the command.
pub fn run(args: &Eval, console: &Console) -> Result<()> {
    check_outputs(args)?;
    let source = open(&args.model, Need::Weights)?;
    console.notes(&source.spec().notes);
    if args.stream {
        return streaming::run(args, &source, console);
    }
    if let Some(flag) = args.cache.flags().first() {
        return Err(Error::usage(format!("{flag} goes with --stream only"))
            .hint("windows are computed without a cache; --sequence-length is their length"));
    }
    let reference = args.reference.as_deref().map(EvalReference::open).transpose()?;
    let settings = EvaluationSettings {
        text: Some(args.data.clone()),
        template: settings::template(&args.template),
        sequence_length: args.sequence_length,
        max_tokens: args.max_tokens,
        windows_in_batch: args.batch_size,
        memory: args.activation_memory,
    };
    let text = settings.windows(&source, console)?;
    refuse_idle(&args.template, &[args.data.display().to_string()], text.has_conversations)?;
    let windows = &text.windows;
    let against = match &reference {
        Some(EvalReference::Saved(saved)) => {
            check_same_tokens(saved, windows)?;
            Against::Saved(saved)
        }
        Some(EvalReference::Model(model)) => Against::Model(model),
        None => Against::Nothing,
    };
    let vocabulary = source.spec().vocab_size;
    let writer = args.save_reference.as_deref();
    let mut writer = writer.map(|path| ReferenceWriter::create(path, windows, vocabulary)).transpose()?;
    let engine = Engine::start()?;
    let started = Instant::now();
    let evaluation = settings.measure(&engine, &source, &against, &text, writer.as_mut(), console)?;
    let rate = text.tokens() as f64 / started.elapsed().as_secs_f64();
    writer.map(ReferenceWriter::finish).transpose()?;
    let tokens = count(evaluation.sequence_length, "token");
    console.line(&format!("{} of {tokens}", count(evaluation.windows, "window")));
    let more = [
        ("tokens_left_out", json!(text.tokens_left_out)),
        ("sequence_length", json!(settings.length(source.spec()))),
    ];
    print_figures(args.json.as_deref(), &evaluation.summary, rate, more)
}

/// A reference that `--reference` names.
enum EvalReference {
    Model(Box<SourceModel>),
    Saved(Reference),
}

impl EvalReference {
    fn open(path: &Path) -> Result<Self> {
        if Reference::is_file(path) {
            return Reference::open(path).map(Self::Saved);
        }
        open(path, Need::Weights).map(|model| Self::Model(Box::new(model)))
    }
}

/// Fails before the work where its results could not be written.
fn check_outputs(args: &Eval) -> Result<()> {
    let json = args.json.as_deref().filter(|path| *path != Path::new("-"));
    if json.is_some() && json == args.save_reference.as_deref() {
        return Err(Error::usage("--json and --save-reference name the same file").hint("give each its own"));
    }
    for path in json.into_iter().chain(args.save_reference.as_deref()) {
        output_file::check(path, Existing::replaced_if(args.overwrite))?;
        let reference = args.reference.as_deref().unwrap_or(&args.model);
        output_file::refuse_inputs(path, &[&args.model, reference, &args.data])?;
    }
    Ok(())
}

/// Fails where the saved reference was computed on other windows.
fn check_same_tokens(saved: &Reference, windows: &[Vec<u32>]) -> Result<()> {
    if saved.windows == windows {
        return Ok(());
    }
    Err(Error::file(
        saved.path(),
        "was made on other tokens: text, tokenizer, --sequence-length or --max-tokens differ",
    )
    .hint(
        "give the same --data, --sequence-length and --max-tokens as with --save-reference; one without BOS in every \
         window, as older versions wrote it, must be written again",
    ))
}
