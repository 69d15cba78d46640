//! `mixbit report`: one HTML file about a model, with a prompt answered by it and by the float one.

use std::ops::ControlFlow;

use super::inspect::architecture;
use super::prompting::{chat_text, encode_chat};
use super::scoring::check_vocabulary;
use crate::checkpoint::SourceModel;
use crate::cli::Report;
use crate::engine::{self, CacheSettings, Engine, Finish, Model, Session, Settings};
use crate::error::{Error, Result};
use crate::html::{self, Answer, Page, Sample};
use crate::inventory::Inventory;
use crate::output_file;
use crate::record::Record;
use crate::report::Console;
use crate::sample::{Chosen, Sampler, Sampling};
use crate::stop_tokens::stop_tokens;
use crate::tokenizer::Tokenizer;

/// What is asked when nothing else is said.
const PROMPT: &str = "Explain in a few sentences why the sky is blue.";

/// Runs the command.
pub fn run(args: &Report, console: &Console) -> Result<()> {
    let source = SourceModel::open(&args.model)?;
    let reference = args.reference.as_deref().map(SourceModel::open).transpose()?;
    if let Some(reference) = &reference {
        check_vocabulary(&source, reference.spec().vocab_size)?;
    }
    let record = Record::read(source.files())?;
    output_file::check(&args.out, args.overwrite)?;
    output_file::apart(&args.out, &[&args.model, args.reference.as_deref().unwrap_or(&args.model)])?;
    let inventory = Inventory::of_source(&source);
    let sample = sample(args, &source, reference.as_ref(), console)?;
    let text = page(&source, &inventory, reference.as_ref(), sample.as_ref(), record.as_ref())?;
    output_file::write(&args.out, text.as_bytes())?;
    console.done(&format!("the report in {}", args.out.display()));
    Ok(())
}

/// The page about `source`; sections that nothing is known for say so.
pub fn page(
    source: &SourceModel,
    inventory: &Inventory,
    reference: Option<&SourceModel>,
    sample: Option<&Sample>,
    record: Option<&Record>,
) -> Result<String> {
    let recorded = record.map(|record| record.bytes_before);
    html::page(&Page {
        name: &source.files().title(),
        architecture: &architecture(source, inventory),
        inventory,
        notes: &source.spec().notes,
        before: recorded.or_else(|| reference.map(|reference| Inventory::of_source(reference).bytes)),
        record,
        sample,
        mlx: sample.and_then(|_| engine::version()),
    })
}

/// The answers, one model after the other; none where there is nothing to compare and nothing was asked.
fn sample(
    args: &Report,
    source: &SourceModel,
    reference: Option<&SourceModel>,
    console: &Console,
) -> Result<Option<Sample>> {
    let prompt = match (&args.prompt, reference) {
        (Some(prompt), _) => prompt.as_str(),
        (None, Some(_)) => PROMPT,
        (None, None) => return Ok(None),
    };
    if prompt.is_empty() {
        return Err(Error::usage("the prompt is empty").hint("give --prompt TEXT, or leave it out"));
    }
    let lacking = reference.into_iter().chain([source]).find(|model| !model.files().has("tokenizer.json"));
    if let (Some(model), None) = (lacking, &args.prompt) {
        let name = model.files().title();
        console.notes(&[format!("{name} has no tokenizer.json: the answers are left out")]);
        return Ok(None);
    }
    let engine = Engine::start()?;
    let quantized = if source.bitmap().is_empty() { "this model" } else { "quantized" };
    let models = reference.map(|model| ("reference", model)).into_iter().chain([(quantized, source)]);
    let mut answers = Vec::new();
    for (by, model) in models {
        console.line(&format!("asking {}", model.files().title()));
        answers.push(answer(&engine, model, prompt, by, args.max_tokens as usize)?);
    }
    Ok(Some(Sample { prompt: prompt.to_owned(), answers }))
}

/// Loads the model, asks it, and lets go of it.
fn answer(
    engine: &Engine,
    source: &SourceModel,
    prompt: &str,
    by: &str,
    max_tokens: usize,
) -> Result<Answer> {
    source.verify()?;
    let tokenizer = Tokenizer::from_files(source.files())?;
    let rendered = chat_text(&tokenizer, prompt, None)?;
    let tokens = encode_chat(&tokenizer, rendered.as_deref(), prompt)?;
    let settings = Settings::new(max_tokens, stop_tokens(source.config(), &tokenizer)?);
    let mut greedy = Sampler::new(Sampling::default(), 0);
    let model = Model::load(engine, source, None)?;
    let mut session = Session::new(&model, CacheSettings::default(), None);
    let go_on = |_: &Chosen| Ok(ControlFlow::Continue(()));
    let found = engine::generate(&model, &mut session, &tokens, &mut greedy, &settings, go_on)?;
    Ok(Answer {
        by: format!("{by}: {}", source.files().title()),
        text: tokenizer.decode(&found.tokens, true)?,
        tokens: found.tokens.len(),
        ended: matches!(found.finish, Finish::Stop(_)),
    })
}
