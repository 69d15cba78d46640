//! The calibration text of a command: what is measured on, and what is kept apart to score on.

use crate::progress::{Progress, Quiet};
use std::path::Path;

use super::settings::Calibration;
use super::template::Template;
use crate::error::{Error, Result};
use crate::jobs::write::companions;
use crate::models::source::SourceModel;
use crate::text::corpus::{Split, Text, Windows, holds_token_ids};
use crate::text::tokenizer::Tokenizer;
use crate::words::count;

/// Windows of held-out text at most.
const MOST_HELD_OUT: usize = 8;

/// Tokens up to which what is measured on them is little more than chance.
const FEW_TOKENS: usize = 4096;

/// Windows to watch progress on at most.
const MOST_SPARE: usize = 16;
/// With fewer of them chance decides.
pub const FEW_SPARE: usize = 4;

/// A text, and what it takes to make tokens of it.
pub struct TextInput {
    /// The text.
    pub text: Text,
    /// The model's tokenizer, unless the text has token ids already.
    pub tokenizer: Option<Tokenizer>,
}

impl TextInput {
    /// Opens the text at `path`, or the one that mixbit carries, for `source`. What is decided about the chat template is
    /// a note where there are conversations.
    pub fn open(
        source: &SourceModel,
        path: Option<&Path>,
        template: &Template,
        console: &dyn Progress,
    ) -> Result<Self> {
        let text = Text::open(path)?;
        let tokenizer = text.tokenizer(source.files())?;
        let tokenizer = tokenizer.map(|tokenizer| template.apply(tokenizer)).transpose()?;
        if let Some(tokenizer) = tokenizer.as_ref().filter(|_| text.has_conversations()) {
            console.notes(&tokenizer.template_notes());
        }
        Ok(Self { text, tokenizer })
    }
}

/// Uses of a calibration text beside calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Some windows are held out to score the result on.
    pub scoring: bool,
    /// Some windows tell which steps of refinement and distillation help; a short text gives up sequences for them.
    pub tuning: bool,
}

/// Token windows that share no token.
#[derive(Debug, Clone)]
pub struct Texts {
    /// What the text is called.
    pub name: String,
    /// Whether there are conversations in it.
    pub has_conversations: bool,
    /// To measure on.
    pub sequences: Vec<Vec<u32>>,
    /// To score on, and never for anything else.
    pub held_out: Vec<Vec<u32>>,
    /// To watch progress on: windows of the same text that serve for nothing else, where there are any left.
    pub spare: Vec<Vec<u32>>,
    /// Windows of the same text that serve for nothing at all yet.
    pub unused: Vec<Vec<u32>>,
}

impl Texts {
    /// Tokenizes the calibration text and divides it into sequences and what `uses` ask for.
    pub fn prepare(
        source: &SourceModel,
        calibration: &Calibration,
        uses: Uses,
        console: &dyn Progress,
    ) -> Result<Self> {
        let text = calibration.text.as_deref();
        let TextInput { text, tokenizer } = TextInput::open(source, text, &calibration.template, console)?;
        let length = calibration.sequence_length as usize;
        let samples = calibration.samples as usize;
        let (tokenizer, seed) = (tokenizer.as_ref(), calibration.seed);
        let Split { calibration: mut sequences, held_out, spare, mut unused } = if uses.scoring {
            text.split(tokenizer, samples, length, seed, MOST_HELD_OUT)?
        } else {
            undivided(&text, tokenizer, samples, length, seed)?
        };
        let given = sequences.len();
        let mut spare = at_most(spare, MOST_SPARE).0;
        if spare.len() < FEW_SPARE {
            let (more, others) = at_most(unused, MOST_SPARE);
            spare.extend(more);
            unused = others;
        }
        if uses.tuning && spare.len() < FEW_SPARE && !calibration.samples_given {
            spare.extend(set_aside(&mut sequences));
        }
        let kept = match held_out.len() {
            0 => String::new(),
            windows => format!(", {windows} x {length} held out"),
        };
        let found = sequences.len();
        let watching = if uses.tuning && spare.len() >= FEW_SPARE {
            format!(", {} x {length} to tell which steps help", spare.len())
        } else {
            String::new()
        };
        console.line(&format!("calibration: {found} x {length} tokens of {}{kept}{watching}", text.name()));
        console.notes(&few(&text.name(), given, length, calibration)?);
        check(source, &text.name(), &sequences, length, console)?;
        check(source, &text.name(), &held_out, length, &Quiet)?;
        check(source, &text.name(), &spare, length, &Quiet)?;
        check(source, &text.name(), &unused, length, &Quiet)?;
        let name = short_name(calibration.text.as_deref());
        let has_conversations = text.has_conversations();
        Ok(Self { name, has_conversations, sequences, held_out, spare, unused })
    }
}

/// Windows to measure on where nothing is scored on this text: those that it gives where something is, so that the result
/// does not depend on it, or all where those are too few.
fn undivided(
    text: &Text,
    tokenizer: Option<&Tokenizer>,
    samples: usize,
    length: usize,
    seed: u64,
) -> Result<Split> {
    match text.split(tokenizer, samples, length, seed, MOST_HELD_OUT) {
        Ok(split) if split.calibration.len() == samples => Ok(Split { held_out: Vec::new(), ..split }),
        _ => Ok(Split {
            calibration: text.sequences(tokenizer, samples, length, seed)?,
            held_out: Vec::new(),
            spare: Vec::new(),
            unused: Vec::new(),
        }),
    }
}

/// What to know of `found` sequences, which may be fewer than wanted.
fn few(text: &str, found: usize, length: usize, calibration: &Calibration) -> Result<Vec<String>> {
    let wanted = calibration.samples as usize;
    if found < wanted && calibration.samples_given {
        return Err(Error::input(format!(
            "{text} gives {} of {length} tokens, --samples asks for {wanted}",
            count(found, "sequence")
        ))
        .hint("give a --calibration text, fewer --samples or a smaller --sequence-length"));
    }
    let mut notes = Vec::new();
    if found < wanted {
        notes.push(format!("{text} gives {found} of {wanted} sequences of {length} tokens"));
    }
    if found * length <= FEW_TOKENS {
        notes.push(format!("few tokens: predictions and GPTQ rest on {}", count(found * length, "token")));
    }
    Ok(notes)
}

/// Takes one of eight sequences, from all over the text, where that leaves enough and gives enough.
fn set_aside(sequences: &mut Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    const EVERY: usize = 8;
    if sequences.len() / EVERY < FEW_SPARE {
        return Vec::new();
    }
    let all = std::mem::take(sequences).into_iter().enumerate();
    let (aside, left): (Vec<_>, Vec<_>) = all.partition(|(index, _)| index % EVERY == EVERY - 1);
    *sequences = left.into_iter().map(|(_, sequence)| sequence).collect();
    aside.into_iter().map(|(_, sequence)| sequence).collect()
}

/// At most so many of the windows, evenly apart, and the others.
fn at_most(windows: Vec<Vec<u32>>, most: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let (count, most) = (windows.len(), most.max(1));
    let step = |index: usize| index * most / count.max(1);
    let chosen = |index: &usize| count <= most || *index == 0 || step(*index) != step(index - 1);
    let (chosen, others): (Vec<_>, Vec<_>) =
        windows.into_iter().enumerate().partition(|(index, _)| chosen(index));
    let windows = |list: Vec<(usize, Vec<u32>)>| list.into_iter().map(|(_, window)| window).collect();
    (windows(chosen), windows(others))
}

/// Windows of `input` to measure `source` on, consecutive and checked; what they leave out is a note.
pub fn windows(
    source: &SourceModel,
    input: &TextInput,
    length: usize,
    max_tokens: Option<usize>,
    console: &dyn Progress,
) -> Result<Windows> {
    let TextInput { text, tokenizer } = input;
    let found = text.windows(tokenizer.as_ref(), length, max_tokens)?;
    let length = found.windows.first().map_or(0, Vec::len);
    check(source, &text.name(), &found.windows, length, console)?;
    if found.left_out > 0 {
        let all = found.windows.len() * length + found.left_out;
        console.notes(&[format!(
            "the last {} of {} left out: less than a window of {length}",
            found.left_out,
            count(all, "token")
        )]);
    }
    Ok(found)
}

/// Windows of the text that mixbit carries that no calibration on it with the same `length` sees, and what they are called;
/// `quantize` measures on the same.
pub fn built_in_held_out(source: &SourceModel, length: usize) -> Result<(String, Vec<Vec<u32>>)> {
    let text = Text::open(None)?;
    let tokenizer = text.tokenizer(source.files())?;
    let Split { held_out, .. } = text.split(tokenizer.as_ref(), 1, length, 0, MOST_HELD_OUT)?;
    check(source, &text.name(), &held_out, length, &Quiet)?;
    Ok((held_out_name(&short_name(None)), held_out))
}

/// What is held out of the text `name` is called.
pub fn held_out_name(name: &str) -> String {
    format!("held-out part of {name}")
}

/// Tokens that the embedding lacks are an error; more of them than the model was made for, a note.
fn check(
    source: &SourceModel,
    text: &str,
    sequences: &[Vec<u32>],
    length: usize,
    console: &dyn Progress,
) -> Result<()> {
    let spec = source.spec();
    let largest = sequences.iter().flatten().max().copied().unwrap_or(0) as usize;
    if largest >= spec.vocab_size {
        return Err(Error::file(
            text,
            format!(
                "has token id {largest}, and {} a vocabulary of {}",
                source.dir().display(),
                count(spec.vocab_size, "token")
            ),
        )
        .hint("the tokenizer, or the file of token ids, does not belong to this model"));
    }
    if let Some(most) = spec.max_position_embeddings.filter(|&most| length > most) {
        console
            .notes(&[format!("sequences of {length} tokens are longer than the model's context of {most}")]);
    }
    Ok(())
}

/// What a text is called in files that go elsewhere: without its folder.
pub fn short_name(path: Option<&Path>) -> String {
    let name = path.map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned());
    name.unwrap_or_else(|| "the built-in text".to_owned())
}

/// Fails where `source` has no tokenizer, unless all `texts` are token ids; what else is to know is a note. A text that
/// is `None` is the built-in one.
pub fn check_tokenizer(source: &SourceModel, texts: &[Option<&Path>], progress: &dyn Progress) -> Result<()> {
    let needs_none = texts.iter().all(|text| text.is_some_and(holds_token_ids));
    if !needs_none || Tokenizer::is_in(source.files()) {
        progress.notes(&companions::check_tokenizer(source)?);
        return Ok(());
    }
    if companions::check_tokenizer(source).is_err() {
        progress.notes(&["there is no tokenizer: the result has none either".to_owned()]);
    }
    Ok(())
}
