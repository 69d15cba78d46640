//! Measuring the result on text that it was not tuned on.

use std::path::Path;

use super::Job;
use crate::commands::opening::open_written;
use crate::commands::scoring::Scoring;
use crate::commands::texts::{held_out_name, short_name, windows};
use crate::error::Result;
use crate::plural::count;
use crate::record::Evaluation;
use crate::text::Text;

/// Tokens below which a measurement says little.
const FEW: usize = 512;

/// Text that was given to measure on, tokenized before the work starts, so that a bad one is known early.
pub struct Proof {
    name: String,
    windows: Vec<Vec<u32>>,
}

impl Proof {
    /// How many windows there are.
    pub(super) fn windows(&self) -> usize {
        self.windows.len()
    }
}

impl Job<'_> {
    /// Windows of `--eval-data`.
    pub(super) fn proof(&self) -> Result<Option<Proof>> {
        let Some(path) = &self.args.eval_data else { return Ok(None) };
        let text = Text::open(Some(path))?;
        let length = self.calibration.sequence_length as usize;
        let windows = windows(self.source, &text, length, None, self.console)?.windows;
        let tokens: usize = windows.iter().map(Vec::len).sum();
        if tokens < FEW {
            let tokens = count(tokens, "token");
            self.console.notes(&[format!("{} gives {tokens} to measure on: so few say little", text.name())]);
        }
        Ok(Some(Proof { name: short_name(Some(path)), windows }))
    }

    /// Scores the model in `folder` against the float one: on the text that was given, or on what was held out of the
    /// calibration text.
    pub(super) fn evaluate(&self, folder: &Path, given: Option<Proof>) -> Result<Option<Evaluation>> {
        let proof = match (given, &self.texts) {
            (Some(proof), _) => proof,
            (None, Some(texts)) if !self.args.no_eval => {
                Proof { name: held_out_name(&texts.name), windows: texts.held_out.clone() }
            }
            _ => return Ok(None),
        };
        let quantized = open_written(folder)?;
        let scoring = Scoring { windows: &proof.windows, batch: 1, memory: self.calibration.memory };
        scoring.evaluation(&quantized, self.source, proof.name, self.console).map(Some)
    }
}
