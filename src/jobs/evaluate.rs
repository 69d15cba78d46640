//! The distance of a model from a reference, on a text.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::jobs::record::Evaluation;
use crate::jobs::scoring::Scoring;
use crate::jobs::settings::{ACTIVATION_MEMORY, sequence_length};
use crate::jobs::template::Template;
use crate::jobs::texts::{TextInput, built_in_held_out, short_name, windows};
use crate::models::source::SourceModel;
use crate::progress::Progress;

/// Text that a model is evaluated on, and the length of its windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvaluationSettings {
    /// File of the text; `None` for the held-out part of the built-in one.
    pub text: Option<PathBuf>,
    /// Chat template for conversations in the text.
    pub template: Template,
    /// Tokens per window; by default the model's context, at most 512.
    pub sequence_length: Option<u32>,
    /// Most tokens of the text to read.
    pub max_tokens: Option<usize>,
}

impl EvaluationSettings {
    /// Returns the text's name, and windows of the text for `source`.
    pub fn windows(&self, source: &SourceModel, progress: &dyn Progress) -> Result<(String, Vec<Vec<u32>>)> {
        let length = self.sequence_length.unwrap_or_else(|| sequence_length(source.spec())) as usize;
        let Some(path) = &self.text else {
            if self.max_tokens.is_some() || self.template != Template::default() {
                return Err(Error::usage(
                    "a limit of tokens and a chat template go with a text, and none is given",
                ));
            }
            return built_in_held_out(source, length);
        };
        let text = TextInput::open(source, Some(path), &self.template, progress)?;
        let windows = windows(source, &text, length, self.max_tokens, progress)?.windows;
        Ok((short_name(Some(path)), windows))
    }
}

/// Windows computed together, the default of `mixbit eval`.
pub const WINDOWS_IN_BATCH: u32 = 4;

/// Measures perplexity of `source` and its KL divergence from `reference`.
///
/// # Errors
/// When the text or the tokenizer is missing or damaged, the vocabularies differ, logits are not finite, or the work is
/// interrupted.
pub fn evaluate(
    source: &SourceModel,
    reference: &SourceModel,
    settings: &EvaluationSettings,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let (name, windows) = settings.windows(source, progress)?;
    evaluate_on(source, reference, name, &windows, progress)
}

/// Measures perplexity of `source` and its KL divergence from `reference` on `windows` of the text `name`.
pub fn evaluate_on(
    source: &SourceModel,
    reference: &SourceModel,
    name: String,
    windows: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let scoring = Scoring { windows, batch: WINDOWS_IN_BATCH as usize, memory: ACTIVATION_MEMORY };
    scoring.evaluation(source, reference, name, progress)
}
