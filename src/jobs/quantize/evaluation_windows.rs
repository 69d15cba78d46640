//! Evaluation of the result on text that it was not tuned on.

use super::job::Job;
use super::settings::EvaluationText;
use crate::error::Result;
use crate::jobs::record::Evaluation;
use crate::jobs::scoring::Scoring;
use crate::jobs::texts::{TextInput, held_out_name, short_name, windows};
use crate::models::source::SourceModel;
use crate::words::count;

/// Number of tokens below which a measurement says little.
const FEW_TOKENS: usize = 512;

/// Windows of an evaluation text from a file, tokenized before the work starts so that a bad text is known early.
pub struct EvaluationWindows {
    pub(crate) name: String,
    pub(crate) has_conversations: bool,
    windows: Vec<Vec<u32>>,
}

impl EvaluationWindows {
    /// Returns the number of windows.
    pub(crate) fn len(&self) -> usize {
        self.windows.len()
    }
}

impl Job<'_> {
    /// Tokenizes the evaluation text, where it is a file.
    pub(crate) fn read_evaluation_text(&mut self) -> Result<()> {
        let EvaluationText::File(path) = &self.settings.evaluation else { return Ok(()) };
        let template = &self.settings.calibration.template;
        let input = TextInput::open(self.source, Some(path), template, self.progress)?;
        let text = &input.text;
        let length = self.settings.calibration.sequence_length as usize;
        let windows = windows(self.source, &input, length, None, self.progress)?.windows;
        let tokens: usize = windows.iter().map(Vec::len).sum();
        if tokens < FEW_TOKENS {
            let tokens = count(tokens, "token");
            self.progress
                .notes(&[format!("{} gives {tokens} to measure on: so few say little", text.name())]);
        }
        let has_conversations = text.has_conversations();
        let name = short_name(Some(path));
        self.evaluation_windows = Some(EvaluationWindows { name, has_conversations, windows });
        Ok(())
    }

    /// Scores the model that was `written` against the float one, on the evaluation text; `None` where there is none.
    pub(crate) fn evaluate(&self, written: &SourceModel) -> Result<Option<Evaluation>> {
        let text = match &self.settings.evaluation {
            EvaluationText::File(_) => {
                self.evaluation_windows.as_ref().map(|text| (text.name.clone(), &text.windows))
            }
            EvaluationText::HeldOut => {
                self.texts.as_ref().map(|texts| (held_out_name(&texts.name), &texts.held_out))
            }
            EvaluationText::Nothing => None,
        };
        let Some((name, windows)) = text else { return Ok(None) };
        self.progress.stage("evaluating");
        let scoring = Scoring { windows, batch: 1, memory: self.settings.calibration.memory };
        scoring.evaluation(written, self.source, name, self.progress).map(Some)
    }
}
