//! Measuring the result on text that it was not tuned on.

use super::job::Job;
use crate::error::Result;
use crate::jobs::record::Evaluation;
use crate::jobs::scoring::Scoring;
use crate::jobs::texts::{TextInput, held_out_name, short_name, windows};
use crate::models::source::SourceModel;
use crate::words::count;

/// Tokens below which a measurement says little.
const FEW: usize = 512;

/// Text that was given to measure on, tokenized before the work starts, so that a bad one is known early.
pub struct Proof {
    pub(crate) name: String,
    pub(crate) has_conversations: bool,
    windows: Vec<Vec<u32>>,
}

impl Proof {
    /// How many windows there are.
    pub(crate) fn windows(&self) -> usize {
        self.windows.len()
    }
}

impl Job<'_> {
    /// Windows of `--eval-data`.
    pub(crate) fn proof(&self) -> Result<Option<Proof>> {
        let Some(path) = &self.args.eval_data else { return Ok(None) };
        let input =
            TextInput::open(self.source, Some(path), &|tokenizer| self.templated(tokenizer), self.console)?;
        let text = &input.text;
        let length = self.calibration.sequence_length as usize;
        let windows = windows(self.source, &input, length, None, self.console)?.windows;
        let tokens: usize = windows.iter().map(Vec::len).sum();
        if tokens < FEW {
            let tokens = count(tokens, "token");
            self.console.notes(&[format!("{} gives {tokens} to measure on: so few say little", text.name())]);
        }
        let has_conversations = text.has_conversations();
        Ok(Some(Proof { name: short_name(Some(path)), has_conversations, windows }))
    }

    /// Scores the model that was `written` against the float one: on the text that was given, or on what was held out of the
    /// calibration text.
    pub(crate) fn evaluate(&self, written: &SourceModel, given: Option<Proof>) -> Result<Option<Evaluation>> {
        let proof = match (given, &self.texts) {
            (Some(proof), _) => proof,
            (None, Some(texts)) if !self.args.no_eval => {
                let (name, windows) = (held_out_name(&texts.name), texts.held_out.clone());
                Proof { name, has_conversations: texts.has_conversations, windows }
            }
            _ => return Ok(None),
        };
        let scoring = Scoring { windows: &proof.windows, batch: 1, memory: self.calibration.memory };
        scoring.evaluation(written, self.source, proof.name, self.console).map(Some)
    }
}
