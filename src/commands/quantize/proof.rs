//! Measuring the result on text that it was not tuned on.

use std::path::Path;

use super::{Decision, Job};
use crate::checkpoint::SourceModel;
use crate::commands::scoring::{Against, Scoring};
use crate::engine::Engine;
use crate::error::Result;
use crate::evaluation::Histogram;
use crate::record::Evaluation;
use crate::text::Text;
use crate::tokenizer::Tokenizer;

/// Windows of held-out text at most.
pub const MOST_HELD_OUT: usize = 8;

/// Text that was given to measure on, tokenized before the work starts, so that a bad one is known early.
pub struct Proof {
    name: String,
    windows: Vec<Vec<u32>>,
}

impl Job<'_> {
    /// Windows of `--eval-data`.
    pub(super) fn proof(&self) -> Result<Option<Proof>> {
        let Some(path) = &self.args.eval_data else { return Ok(None) };
        let text = Text::open(Some(path))?;
        let tokenizer = Tokenizer::from_dir(self.source.dir())?;
        let windows = text.windows(&tokenizer, self.calibration.sequence_length as usize, None)?;
        Ok(Some(Proof { name: text.name(), windows }))
    }

    /// Scores the model in `folder` against the float one.
    pub(super) fn evaluate(
        &self,
        folder: &Path,
        decision: &Decision,
        given: Option<Proof>,
    ) -> Result<Option<Evaluation>> {
        let proof = match given {
            Some(proof) => proof,
            None if self.args.no_eval || decision.table.is_none() => return Ok(None),
            None => self.held_out(decision)?,
        };
        let engine = Engine::start()?;
        let quantized = SourceModel::open(folder)?;
        let scoring = Scoring { windows: &proof.windows, batch: 1, memory: self.calibration.memory };
        let scores = scoring.run(&engine, &quantized, &Against::Model(self.source), None, self.console)?;
        Ok(Some(Evaluation {
            text: proof.name,
            windows: proof.windows.len(),
            sequence_length: proof.windows.first().map_or(0, Vec::len),
            summary: scores.summary(),
            kl_histogram: Histogram::of(scores.divergences()),
        }))
    }

    /// What was held out of the calibration text; with a table measured before, that of the built-in text.
    fn held_out(&self, decision: &Decision) -> Result<Proof> {
        let held_out = |name: &str| format!("held-out part of {name}");
        if !decision.held_out.is_empty() {
            let name = Text::open(self.calibration.text.as_deref())?.name();
            return Ok(Proof { name: held_out(&name), windows: decision.held_out.clone() });
        }
        let text = Text::open(None)?;
        let tokenizer = Tokenizer::from_dir(self.source.dir())?;
        let length = self.calibration.sequence_length as usize;
        let split = text.split(&tokenizer, 1, length, 0, MOST_HELD_OUT)?;
        Ok(Proof { name: held_out(&text.name()), windows: split.held_out })
    }
}
