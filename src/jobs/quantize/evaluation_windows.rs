//! Evaluation of the result on text that it was not tuned on.

use super::job::Job;
use super::settings::EvaluationText;
use crate::engine::runtime::Engine;
use crate::error::Result;
use crate::jobs::evaluate::EvaluationWindows;
use crate::jobs::record::Evaluation;
use crate::jobs::scoring::{Against, Scoring};
use crate::jobs::texts::held_out_name;
use crate::models::source::SourceModel;
use crate::words::count;

/// Number of tokens below which a measurement says little.
const FEW_TOKENS: usize = 512;

impl Job<'_> {
    /// Tokenizes the evaluation text, where it is a file: before the work starts, so that a bad text is known early.
    pub(crate) fn read_evaluation_text(&mut self) -> Result<()> {
        let EvaluationText::File(path) = &self.settings.evaluation else { return Ok(()) };
        let template = &self.settings.calibration.template;
        let length = self.settings.calibration.sequence_length as usize;
        let text = EvaluationWindows::read(self.source, path, template, length, None, self.progress)?;
        if text.tokens() < FEW_TOKENS {
            let (name, tokens) = (path.display(), count(text.tokens(), "token"));
            self.progress.notes(&[format!("{name} gives {tokens} to measure on: so few say little")]);
        }
        self.evaluation_windows = Some(text);
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
        let against = Against::Model(self.source);
        scoring.evaluation(&Engine::start()?, written, &against, None, name, self.progress).map(Some)
    }
}
