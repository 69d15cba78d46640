//! `mixbit report`: one HTML file about a model, with its distance from the float one and a prompt answered by both.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::answering::blame_tensor;
use super::prompting::{RenderedPrompt, encode_chat, messages, render};
use super::settings;
use crate::cli::args::Report;
use crate::engine::cache::sequence::CacheSettings;
use crate::engine::decoder::model::Model;
use crate::engine::generate::generate::{Finish, Settings, generate};
use crate::engine::generate::session::Session;
use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::jobs::evaluate::{EvaluationSettings, EvaluationWindows};
use crate::jobs::opening::{Need, open};
use crate::jobs::record;
use crate::jobs::record::Record;
use crate::jobs::scoring::{Against, check_vocabulary};
use crate::jobs::template::Template;
use crate::models::inventory::Inventory;
use crate::models::source::SourceModel;
use crate::report::html::{Answer, Sample};
use crate::report::{Console, PageInputs, page};
use crate::text::sampling::{Chosen, Sampler, Sampling};
use crate::text::stop_tokens::StopTokens;
use crate::text::tokenizer::Tokenizer;

/// Default of the most tokens of an answer.
const ANSWER_TOKENS: u32 = 160;

/// Default prompt.
const PROMPT: &str = "Explain in a few sentences why the sky is blue.";

/// Runs the command.
pub fn run(args: &Report, console: &Console) -> Result<()> {
    let need = if needs_values(args) { Need::Weights } else { Need::Headers };
    let source = open(&args.model, need)?;
    let reference = args.reference.as_deref().map(|path| open(path, Need::Weights)).transpose()?;
    if let Some(reference) = &reference {
        check_vocabulary(&source, reference.spec().vocab_size)?;
    }
    if !needs_values(args) {
        refuse_idle(args)?;
    }
    let record = record(&source, console)?;
    output_file::check(&args.out, Existing::replaced_if(args.overwrite))?;
    let inputs = [Some(&args.model), args.reference.as_ref(), args.data.as_ref()];
    output_file::refuse_inputs(
        &args.out,
        &inputs.into_iter().flatten().map(PathBuf::as_path).collect::<Vec<_>>(),
    )?;
    let mut comparison = None;
    if let Some(reference) = &reference {
        let recorded = is_recorded(record.as_ref(), reference, console)?;
        comparison = text(args, &source, recorded, console)?.map(|text| (reference, text));
    }
    let sample = sample(args, &source, reference.as_ref(), console)?;
    let measured = comparison
        .map(|(reference, (settings, text))| {
            settings.measure(&Engine::start()?, &source, &Against::Model(reference), &text, None, console)
        })
        .transpose()?;
    let before = reference.as_ref().map(|reference| Inventory::of_source(reference).bytes);
    let inputs = PageInputs { before, measured, sample };
    let text = page(&source, &Inventory::of_source(&source), &inputs, record.as_ref())?;
    output_file::write(&args.out, text.as_bytes())?;
    console.done(&format!("the report in {}", args.out.display()));
    Ok(())
}

/// Fails where flags are about answers, and nothing is asked.
fn refuse_idle(args: &Report) -> Result<()> {
    let limit = args.max_tokens.map(|_| ("--max-tokens", "limits answers"));
    let of_prompts = || args.template.flags().first().map(|&flag| (flag, "says how prompts are written out"));
    let Some((flag, purpose)) = limit.or_else(of_prompts) else { return Ok(()) };
    Err(Error::usage(format!("{flag} {purpose}, and nothing is asked"))
        .hint(format!("give --prompt or --reference, or leave {flag} out")))
}

/// True if a model computes anything; otherwise headers are enough.
pub fn needs_values(args: &Report) -> bool {
    args.prompt.is_some() || args.reference.is_some()
}

/// Reads the record of `source`; a record of other weights is left out with a note.
pub fn record(source: &SourceModel, console: &Console) -> Result<Option<Record>> {
    let record = Record::read(source.files())?;
    if record.as_ref().is_none_or(|record| record.is_about(source)) {
        return Ok(record);
    }
    console.notes(&[format!("{} is about other weights than these: left out", record::FILE)]);
    Ok(None)
}

/// True if the record has the distance from `reference`, and not from another model.
fn is_recorded(record: Option<&Record>, reference: &SourceModel, console: &Console) -> Result<bool> {
    let Some(record) = record.filter(|record| record.evaluation.is_some()) else { return Ok(false) };
    let is_same = match &record.measurement {
        Some(measurement) => measurement.model == reference.fingerprint()?,
        None => reference.bitmap().is_empty(),
    };
    if !is_same {
        console.notes(&[format!(
            "{} is not what the model was made from, {} as it was then: the distance from it is measured anew",
            reference.files().title(),
            record.base_model
        )]);
    }
    Ok(is_same)
}

/// Returns windows of the text to measure on, and how to measure: the user's, or mixbit's own where no distance is
/// `recorded`.
fn text(
    args: &Report,
    source: &SourceModel,
    recorded: bool,
    console: &Console,
) -> Result<Option<(EvaluationSettings, EvaluationWindows)>> {
    if recorded && args.data.is_none() {
        return Ok(None);
    }
    if args.data.is_none() && !Tokenizer::is_in(source.files()) {
        let name = source.files().title();
        console.notes(&[format!(
            "{name} has no tokenizer.json: its distance from the reference is left out, --data with token ids measures it"
        )]);
        return Ok(None);
    }
    let settings = EvaluationSettings {
        text: args.data.clone(),
        // mixbit's own text has no conversations; the answers are rendered with the template all the same.
        template: args.data.as_ref().map_or_else(Template::default, |_| settings::template(&args.template)),
        sequence_length: args.sequence_length,
        max_tokens: args.max_data_tokens.map(|most| most as usize),
        ..EvaluationSettings::default()
    };
    let text = settings.windows(source, console)?;
    Ok(Some((settings, text)))
}

/// Returns the models' answers; none without a reference and a prompt.
pub(crate) fn sample(
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
    let lacking = reference.into_iter().chain([source]).find(|model| !Tokenizer::is_in(model.files()));
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
        let tokenizer = settings::template(&args.template).apply(Tokenizer::from_files(model.files())?)?;
        console.notes(&tokenizer.template_notes());
        answers.push(answer(&engine, model, &tokenizer, prompt, by, args)?);
    }
    Ok(Some(Sample { prompt: prompt.to_owned(), answers }))
}

/// Loads a model, answers the prompt with it, and drops it.
fn answer(
    engine: &Engine,
    source: &SourceModel,
    tokenizer: &Tokenizer,
    prompt: &str,
    by: &str,
    args: &Report,
) -> Result<Answer> {
    let prefill = args.template.prefill_response.as_deref();
    let RenderedPrompt { rendered, prefill } = render(tokenizer, messages(prompt, None), prefill)?;
    if rendered.is_none() && args.template.prefill_response.is_some() {
        let name = source.files().title();
        return Err(Error::usage(format!("--prefill-response needs a chat template, and {name} has none"))
            .hint("--chat-template FILE gives it one"));
    }
    let tokens = encode_chat(tokenizer, rendered.as_deref(), prompt)?;
    let max_tokens = args.max_tokens.unwrap_or(ANSWER_TOKENS) as usize;
    let settings = Settings::new(max_tokens, StopTokens::read(source.config(), tokenizer)?.ids());
    let mut greedy = Sampler::new(Sampling::default(), 0);
    let model = Model::load(engine, source, None)?;
    let mut session = Session::new(&model, CacheSettings::default(), None);
    let to_the_end = |_: &Chosen| Ok(ControlFlow::Continue(()));
    let generation = generate(&model, &mut session, &tokens, &mut greedy, &settings, to_the_end)
        .map_err(|error| blame_tensor(source, error))?;
    Ok(Answer {
        by: format!("{by}: {}", source.files().title()),
        text: prefill + &tokenizer.decode(&generation.tokens, true)?,
        tokens: generation.tokens.len(),
        ended: matches!(generation.finish, Finish::Stop(_)),
    })
}
