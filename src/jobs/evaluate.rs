//! Perplexity of a model on a text, and its distance from a reference.

use std::path::{Path, PathBuf};

use crate::engine::runtime::Engine;
use crate::error::{Error, Result};
use crate::jobs::evaluation::ReferenceWriter;
use crate::jobs::record::Evaluation;
use crate::jobs::scoring::{Against, Scoring};
use crate::jobs::settings::{ACTIVATION_MEMORY, sequence_length};
use crate::jobs::template::Template;
use crate::jobs::texts::{TextInput, built_in_held_out, short_name, windows};
use crate::models::source::SourceModel;
use crate::models::spec::DecoderSpec;
use crate::progress::Progress;
use crate::text::corpus::Windows;

/// Default number of windows that are computed together.
pub const WINDOWS_IN_BATCH: u32 = 4;

/// Text that a model is evaluated on, and the way its windows are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationSettings {
    /// File of the text; `None` for the held-out part of the built-in one.
    pub text: Option<PathBuf>,
    /// Chat template for conversations in the text.
    pub template: Template,
    /// Tokens per window; by default the model's context, at most 512.
    pub sequence_length: Option<u32>,
    /// Most tokens of all windows together, BOS of each included.
    pub max_tokens: Option<usize>,
    /// Windows that are computed together.
    pub windows_in_batch: u32,
    /// Bytes of hidden states in memory.
    pub memory: u64,
}

impl Default for EvaluationSettings {
    fn default() -> Self {
        Self {
            text: None,
            template: Template::default(),
            sequence_length: None,
            max_tokens: None,
            windows_in_batch: WINDOWS_IN_BATCH,
            memory: ACTIVATION_MEMORY,
        }
    }
}

/// Windows of a text that models are evaluated on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationWindows {
    /// Name of the text, without its folder.
    pub name: String,
    /// True if there are conversations in the text.
    pub has_conversations: bool,
    /// Token ids, window by window. All windows have one length.
    pub windows: Vec<Vec<u32>>,
    /// Number of tokens at the end that do not fill a window.
    pub tokens_left_out: usize,
}

impl EvaluationWindows {
    /// Reads the text at `path` and cuts at most `max_tokens` of it into windows of `length` tokens for `source`.
    pub(crate) fn read(
        source: &SourceModel,
        path: &Path,
        template: &Template,
        length: usize,
        max_tokens: Option<usize>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let input = TextInput::open(source, Some(path), template, progress)?;
        let Windows { windows, left_out } = windows(source, &input, length, max_tokens, progress)?;
        let has_conversations = input.text.has_conversations();
        Ok(Self { name: short_name(Some(path)), has_conversations, windows, tokens_left_out: left_out })
    }

    /// Returns the number of tokens in all windows.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }
}

impl EvaluationSettings {
    /// Returns the number of tokens per window for a model of this architecture.
    pub fn length(&self, spec: &DecoderSpec) -> u32 {
        self.sequence_length.unwrap_or_else(|| sequence_length(spec))
    }

    /// Returns windows of the text for `source`.
    ///
    /// # Errors
    /// When the text or the tokenizer is missing or damaged, or settings of a text are there without one.
    pub fn windows(&self, source: &SourceModel, progress: &dyn Progress) -> Result<EvaluationWindows> {
        let length = self.length(source.spec()) as usize;
        if let Some(path) = &self.text {
            return EvaluationWindows::read(source, path, &self.template, length, self.max_tokens, progress);
        }
        if self.max_tokens.is_some() || self.template != Template::default() {
            return Err(Error::usage(
                "a limit of tokens and a chat template go with a text, and none is given",
            ));
        }
        let (name, windows) = built_in_held_out(source, length)?;
        Ok(EvaluationWindows { name, has_conversations: false, windows, tokens_left_out: 0 })
    }

    /// Measures perplexity of `source` and its KL divergence from the reference on the windows of `text`. Rows of the
    /// reference also go to `writer`.
    ///
    /// # Errors
    /// When the vocabularies differ, logits are not finite, or the work is interrupted.
    pub fn measure(
        &self,
        engine: &Engine,
        source: &SourceModel,
        against: &Against<'_>,
        text: &EvaluationWindows,
        writer: Option<&mut ReferenceWriter>,
        progress: &dyn Progress,
    ) -> Result<Evaluation> {
        let batch = self.windows_in_batch as usize;
        let scoring = Scoring { windows: &text.windows, batch, memory: self.memory };
        scoring.evaluation(engine, source, against, writer, text.name.clone(), progress)
    }
}

/// Measures perplexity of `source` and its KL divergence from the reference, where there is one.
///
/// # Errors
/// When the text or the tokenizer is missing or damaged, the vocabularies differ, logits are not finite, or the work is
/// interrupted.
pub fn evaluate(
    source: &SourceModel,
    against: &Against<'_>,
    settings: &EvaluationSettings,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let text = settings.windows(source, progress)?;
    settings.measure(&Engine::start()?, source, against, &text, None, progress)
}
