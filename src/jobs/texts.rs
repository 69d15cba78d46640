//! Token windows of the calibration text: to calibrate on, to watch progress on, and held out to score on.

use crate::progress::{Progress, Quiet};
use std::path::Path;

use super::settings::{Calibration, Samples};
use super::template::Template;
use crate::error::{Error, Result};
use crate::jobs::write::companions;
use crate::models::source::SourceModel;
use crate::text::corpus::{HELD_OUT_EVERY, Split, Text, Windows, holds_token_ids};
use crate::text::tokenizer::Tokenizer;
use crate::words::count;

/// Most windows of held-out text.
const MOST_HELD_OUT_WINDOWS: usize = 8;

/// Number of tokens up to which measurements on them are little more than chance.
const FEW_TOKENS: usize = 4096;

/// Most windows to watch progress on.
const MOST_VALIDATION_WINDOWS: usize = 16;
/// Number of windows to watch progress on below which chance decides.
pub const FEW_VALIDATION_WINDOWS: usize = 4;

/// A text and its tokenizer.
pub struct TextInput {
    /// The text.
    pub text: Text,
    /// The model's tokenizer, unless the text has token ids already.
    pub tokenizer: Option<Tokenizer>,
}

impl TextInput {
    /// Opens the text at `path`, or the one that mixbit carries, for `source`. Decisions about the chat template are
    /// notes where there are conversations.
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

/// Token windows that share no token but those that all begin with.
#[derive(Debug, Clone)]
pub struct Texts {
    /// Name of the text, without its folder.
    pub name: String,
    /// True if there are conversations in the text.
    pub has_conversations: bool,
    /// Sequences to measure on and to round with.
    pub sequences: Vec<Vec<u32>>,
    /// Windows to score the result on, and nothing else.
    pub held_out: Vec<Vec<u32>>,
    /// Windows to watch progress on that serve for nothing else; few or none where the text is short.
    pub validation: Vec<Vec<u32>>,
    /// Windows that serve for nothing yet.
    pub unused: Vec<Vec<u32>>,
    /// Token ids that every window begins with.
    pub beginning: Vec<u32>,
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
        let samples = calibration.samples.count() as usize;
        let (tokenizer, seed) = (tokenizer.as_ref(), calibration.seed);
        let Split { calibration: mut sequences, held_out, spare, unused } = if uses.scoring {
            text.split(tokenizer, samples, length, seed, MOST_HELD_OUT_WINDOWS)?
        } else {
            split_without_scoring(&text, tokenizer, samples, length, seed)?
        };
        let available = sequences.len();
        let first = sequences.first().map_or(&[][..], Vec::as_slice);
        let beginning = text.beginning(tokenizer, first)?;
        let (mut validation, unused) = validation_windows(spare, unused);
        let may_take = matches!(calibration.samples, Samples::AtMost(_));
        if uses.tuning && validation.len() < FEW_VALIDATION_WINDOWS && may_take {
            validation.extend(take_validation(&mut sequences));
        }
        let name = short_name(calibration.text.as_deref());
        let has_conversations = text.has_conversations();
        let texts = Self { name, has_conversations, sequences, held_out, validation, unused, beginning };
        console.line(&texts.described(&text.name(), length, uses));
        console.notes(&check_number(&text.name(), available, length, calibration)?);
        check(source, &text.name(), &texts.sequences, length, console)?;
        for windows in [&texts.held_out, &texts.validation, &texts.unused] {
            check(source, &text.name(), windows, length, &Quiet)?;
        }
        Ok(texts)
    }

    /// Describes the windows in one line.
    fn described(&self, text: &str, length: usize, uses: Uses) -> String {
        let sequences = self.sequences.len();
        let held_out = match self.held_out.len() {
            0 => String::new(),
            windows => format!(", {windows} x {length} held out"),
        };
        let validation = if uses.tuning && self.validation.len() >= FEW_VALIDATION_WINDOWS {
            format!(", {} x {length} to tell which steps help", self.validation.len())
        } else {
            String::new()
        };
        format!("calibration: {sequences} x {length} tokens of {text}{held_out}{validation}")
    }
}

/// Cuts a text that nothing is scored on into the sequences that it gives with scoring, so that the result does not
/// depend on that, or into all windows where those are too few.
fn split_without_scoring(
    text: &Text,
    tokenizer: Option<&Tokenizer>,
    samples: usize,
    length: usize,
    seed: u64,
) -> Result<Split> {
    match text.split(tokenizer, samples, length, seed, MOST_HELD_OUT_WINDOWS) {
        Ok(split) if split.calibration.len() == samples => Ok(Split { held_out: Vec::new(), ..split }),
        _ => Ok(Split {
            calibration: text.sequences(tokenizer, samples, length, seed)?,
            held_out: Vec::new(),
            spare: Vec::new(),
            unused: Vec::new(),
        }),
    }
}

/// Chooses windows to watch progress on: spare held-out ones, and others where those are few. Returns them and the
/// windows that stay unused.
fn validation_windows(spare: Vec<Vec<u32>>, unused: Vec<Vec<u32>>) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let mut validation = thin_out(spare, MOST_VALIDATION_WINDOWS).0;
    if validation.len() >= FEW_VALIDATION_WINDOWS {
        return (validation, unused);
    }
    let (more, others) = thin_out(unused, MOST_VALIDATION_WINDOWS);
    validation.extend(more);
    (validation, others)
}

/// Compares the number of `sequences` that a text gives with the number asked for. Fewer are an error where the user
/// gave the number, and a note where mixbit did; so are few tokens.
fn check_number(
    text: &str,
    sequences: usize,
    length: usize,
    calibration: &Calibration,
) -> Result<Vec<String>> {
    let wanted = calibration.samples.count() as usize;
    if sequences < wanted && matches!(calibration.samples, Samples::Exactly(_)) {
        return Err(Error::input(format!(
            "{text} gives {} of {length} tokens, setting `samples` asks for {wanted}",
            count(sequences, "sequence")
        ))
        .hint("give a setting `calibration` text, fewer setting `samples` or a smaller setting `sequence_length`"));
    }
    let mut notes = Vec::new();
    if sequences < wanted {
        notes.push(format!("{text} gives {sequences} of {wanted} sequences of {length} tokens"));
    }
    if sequences * length <= FEW_TOKENS {
        notes
            .push(format!("few tokens: predictions and GPTQ rest on {}", count(sequences * length, "token")));
    }
    Ok(notes)
}

/// Number of sequences of which one may be taken to watch progress on.
const VALIDATION_EVERY: usize = 8;

/// Returns how many of so many `sequences` are taken to watch progress on; none where these would be too few.
fn validation_taken(sequences: usize) -> usize {
    let taken = sequences / VALIDATION_EVERY;
    if taken < FEW_VALIDATION_WINDOWS { 0 } else { taken }
}

/// Returns the number of sequences that [`Texts::prepare`] leaves to measure on of a text of so many `windows`.
pub(crate) fn sequences_left(windows: usize, samples: Samples, uses: Uses) -> usize {
    let held_out = (windows / HELD_OUT_EVERY).max(1);
    let sequences = samples.count() as usize;
    let spare = held_out.saturating_sub(MOST_HELD_OUT_WINDOWS);
    let unused = windows.saturating_sub(held_out + sequences);
    let is_short = spare + unused < FEW_VALIDATION_WINDOWS;
    let may_take = uses.tuning && matches!(samples, Samples::AtMost(_));
    sequences - if may_take && is_short { validation_taken(sequences) } else { 0 }
}

/// Takes one of eight sequences, from all over the text, to watch progress on; none where that gives too few.
fn take_validation(sequences: &mut Vec<Vec<u32>>) -> Vec<Vec<u32>> {
    if validation_taken(sequences.len()) == 0 {
        return Vec::new();
    }
    let all = std::mem::take(sequences).into_iter().enumerate();
    let (taken, others): (Vec<_>, Vec<_>) =
        all.partition(|(index, _)| index % VALIDATION_EVERY == VALIDATION_EVERY - 1);
    *sequences = others.into_iter().map(|(_, sequence)| sequence).collect();
    taken.into_iter().map(|(_, sequence)| sequence).collect()
}

/// Chooses at most `most` of the windows, evenly spread, and returns them and the others.
fn thin_out(windows: Vec<Vec<u32>>, most: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let (count, most) = (windows.len(), most.max(1));
    let step = |index: usize| index * most / count.max(1);
    let chosen = |index: &usize| count <= most || *index == 0 || step(*index) != step(index - 1);
    let (chosen, others): (Vec<_>, Vec<_>) =
        windows.into_iter().enumerate().partition(|(index, _)| chosen(index));
    let windows = |list: Vec<(usize, Vec<u32>)>| list.into_iter().map(|(_, window)| window).collect();
    (windows(chosen), windows(others))
}

/// Cuts `input` into consecutive windows to measure `source` on, and checks them. Tokens left out at the end are a
/// note.
pub fn windows(
    source: &SourceModel,
    input: &TextInput,
    length: usize,
    max_tokens: Option<usize>,
    console: &dyn Progress,
) -> Result<Windows> {
    let TextInput { text, tokenizer } = input;
    let cut = text.windows(tokenizer.as_ref(), length, max_tokens)?;
    let length = cut.windows.first().map_or(0, Vec::len);
    check(source, &text.name(), &cut.windows, length, console)?;
    if cut.left_out > 0 {
        let all = cut.windows.len() * length + cut.left_out;
        console.notes(&[format!(
            "the last {} of {} left out: less than a window of {length}",
            cut.left_out,
            count(all, "token")
        )]);
    }
    Ok(cut)
}

/// Returns the held-out windows of the text that mixbit carries, and their name. No calibration on that text with the
/// same `length` sees them, and `quantize` measures on them too.
pub fn built_in_held_out(source: &SourceModel, length: usize) -> Result<(String, Vec<Vec<u32>>)> {
    let text = Text::open(None)?;
    let tokenizer = text.tokenizer(source.files())?;
    let Split { held_out, .. } = text.split(tokenizer.as_ref(), 1, length, 0, MOST_HELD_OUT_WINDOWS)?;
    check(source, &text.name(), &held_out, length, &Quiet)?;
    Ok((held_out_name(&short_name(None)), held_out))
}

/// Returns the name of the held-out part of the text `name`.
pub fn held_out_name(name: &str) -> String {
    format!("held-out part of {name}")
}

/// Fails where the embedding lacks a token; notes sequences longer than the model's context.
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

/// Returns a text's name without its folder, for files that go elsewhere.
pub fn short_name(path: Option<&Path>) -> String {
    let name = path.map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned());
    name.unwrap_or_else(|| "the built-in text".to_owned())
}

/// Fails where `source` has no tokenizer, unless all `texts` are token ids, and notes oddities of its files. A text
/// that is `None` is the built-in one.
pub fn check_tokenizer(source: &SourceModel, texts: &[Option<&Path>], progress: &dyn Progress) -> Result<()> {
    let needs_none = texts.iter().all(|text| text.is_some_and(holds_token_ids));
    if !needs_none || Tokenizer::is_in(source.files()) {
        progress.notes(&companions::check_tokenizer(source)?);
        return Ok(());
    }
    companions::refuse_pointers(source.files())?;
    if companions::check_tokenizer(source).is_err() {
        progress.notes(&["there is no tokenizer: the result has none either".to_owned()]);
    }
    Ok(())
}
