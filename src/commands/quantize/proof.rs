//! Measuring the result on text that it was not tuned on.

use std::path::Path;

use super::Job;
use crate::checkpoint::SourceModel;
use crate::commands::scoring::{Against, Scoring};
use crate::commands::texts::short_name;
use crate::engine::Engine;
use crate::error::Result;
use crate::evaluation::Histogram;
use crate::record::Evaluation;
use crate::text::Text;
use crate::tokenizer::Tokenizer;

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
        let tokenizer = Tokenizer::from_files(self.source.files())?;
        let windows = text.windows(&tokenizer, self.calibration.sequence_length as usize, None)?;
        Ok(Some(Proof { name: short_name(Some(path)), windows }))
    }

    /// Scores the model in `folder` against the float one: on the text that was given, or on what was held out of the
    /// calibration text.
    pub(super) fn evaluate(&self, folder: &Path, given: Option<Proof>) -> Result<Option<Evaluation>> {
        let proof = match (given, &self.texts) {
            (Some(proof), _) => proof,
            (None, Some(texts)) if !self.args.no_eval => {
                Proof { name: format!("held-out part of {}", texts.name), windows: texts.held_out.clone() }
            }
            _ => return Ok(None),
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
}
