//! Memory and text that a distillation needs in which codes learn.

use std::path::PathBuf;

use super::job::{Decision, Job};
use super::layer_journal::LayerJournal;
use crate::choose::learned::after_learning_codes;
use crate::choose::recipe::Learn;
use crate::error::{Error, Result};
use crate::files::journal::{ANEW, Journal};
use crate::jobs::estimate::Work;
use crate::jobs::quantize::tuning::TuningRun;
use crate::numerics::quant::Mode;
use crate::numerics::rounding::Technique;
use crate::words::compared_bytes;

/// Tokens of the calibration text from which codes have been seen to come closer to the float model than scales alone: 12,288,
/// with a model of a million parameters.
const FEW_TOKENS: usize = 12_000;

impl Job<'_> {
    /// True if codes are to learn.
    pub(crate) fn learns_codes(&self) -> bool {
        let tuning = self.settings.tuning;
        tuning.distill.is_some() && tuning.learn == Learn::Codes
    }

    /// Returns the number of codes that learn at a time.
    pub(crate) fn learning_codes(&self) -> u64 {
        match (self.learns_codes(), self.learns_by_block()) {
            (false, _) => 0,
            (true, false) => self.plan.weights(),
            (true, true) => self.codes_of_a_block(),
        }
    }

    /// Returns the number of codes in the block that has most.
    fn codes_of_a_block(&self) -> u64 {
        let blocks = self.source.spec().blocks.len();
        (0..blocks).map(|block| self.plan.weights_of_block(block)).max().unwrap_or(0)
    }

    /// True if codes learn block by block, and only scales end to end after them.
    pub(crate) fn learns_by_block(&self) -> bool {
        self.learns_codes() && self.learns_end_to_end == Learn::Scales
    }

    /// Returns the predicted KL divergence of a `decision`, and what is expected of it once codes have learned. `None` where
    /// nothing is predicted for GPTQ, or other codes learn than those of affine layers, or not all at once, or in few steps.
    pub(crate) fn expected_after_learning(&self, decision: &Decision) -> Option<(f64, f64)> {
        let Decision { solution, table, .. } = decision;
        let (rounded, table, steps) = (solution.kl?, table.as_ref()?, self.settings.tuning.distill?);
        let predicted = table.correction.predicted_rounding(self.technique, table.measurement.rounding);
        let is_affine = solution.bitmap.values().all(|quant| quant.mode == Mode::Affine);
        let at_once = self.learns_codes() && self.learns_end_to_end == Learn::Codes;
        let is_known = predicted == Technique::Gptq && is_affine && at_once;
        after_learning_codes(rounded, steps).filter(|_| is_known).map(|learned| (rounded, learned))
    }

    /// Chooses what learns in the steps that compare logits: codes too, where they fit in memory all at once. An interrupted
    /// run goes on as it was begun, and says so where a new one would begin otherwise.
    pub(crate) fn choose_end_to_end(&self) -> Learn {
        if !self.learns_codes() {
            return Learn::Scales;
        }
        let shortage = self.shortage();
        let now = if shortage.is_some() { Learn::Scales } else { Learn::Codes };
        let begun = self.begun_end_to_end();
        let note = match (begun.unwrap_or(now), shortage) {
            (Learn::Codes, None) => return Learn::Codes,
            (Learn::Codes, Some(shortage)) => {
                format!("codes learn all at once, as the interrupted run had begun, although {shortage}")
            }
            (Learn::Scales, None) => {
                "codes learn block by block, as the interrupted run had begun, although all would fit in memory".to_owned()
            }
            (Learn::Scales, Some(shortage)) => {
                let after = if self.has_affine_layers() { ", scales end to end after them" } else { "" };
                format!("codes learn block by block only{after}: {shortage}")
            }
        };
        self.progress.notes(&[note]);
        begun.unwrap_or(now)
    }

    /// Returns what learns end to end in the interrupted run that this one resumes, if it came so far.
    fn begun_end_to_end(&self) -> Option<Learn> {
        let output = &self.settings.output.path;
        let header = |path: PathBuf| Journal::peek(&path).filter(|_| self.settings.resume);
        if header(LayerJournal::blocks_path(output)).is_some() {
            return Some(Learn::Scales);
        }
        let steps = header(TuningRun::path(output))?;
        steps.value("learn").filter(|learn| *learn == Learn::Codes.name()).map(|_| Learn::Codes)
    }

    /// Says by how much memory is too small for all codes to learn at once, where it is.
    fn shortage(&self) -> Option<String> {
        let (allowed, free) = (self.settings.tuning.memory_limit, crate::system::available_memory());
        let needed = self.work().map(|work| Work { learning_codes: self.plan.weights(), ..work }.memory())?;
        let limit = allowed.into_iter().chain(free).min().filter(|&limit| needed > limit)?;
        let whose = if Some(limit) == allowed { "allowed" } else { "free" };
        let [needed, limit] = compared_bytes([needed, limit]);
        Some(format!("all codes at once would take {needed} of memory, and {limit} are {whose}"))
    }

    /// Tells where codes are to learn from little text.
    pub(crate) fn note_few_tokens(&self) {
        let Some(texts) = self.texts.as_ref().filter(|_| self.learns_codes()) else { return };
        let tokens: usize = texts.sequences.iter().map(Vec::len).sum();
        if tokens < FEW_TOKENS {
            let note = format!(
                "codes learn from {tokens} tokens, and fewer than some {FEW_TOKENS} may teach them this text alone: give \
                 a longer setting `calibration` text and more setting `samples`, let the model write it with setting \
                 `calibration` generated:250000, or set setting `learn` to scales"
            );
            self.progress.notes(&[note]);
        }
    }

    /// Fails where codes are to learn and the job, which takes `needed` bytes, does not fit in memory.
    pub(crate) fn check_memory(&self, needed: u64) -> Result<()> {
        match self.learning_codes() {
            0 => Ok(()),
            codes => check_memory(codes, needed, crate::system::available_memory()).map_err(|error| {
                // What was begun with codes is not resumed without.
                if self.settings.resume { error.hint(format!("free some of it, or {ANEW}")) } else { error }
            }),
        }
    }
}

/// Fails where so many `codes` learn in a job that takes `needed` bytes, and fewer are `available`.
fn check_memory(codes: u64, needed: u64, available: Option<u64>) -> Result<()> {
    let Some(available) = available.filter(|&available| available < needed) else { return Ok(()) };
    let [needed, available] = compared_bytes([needed, available]);
    Err(Error::usage(format!(
        "learning {codes} codes at a time takes {needed} of memory, and {available} are free"
    ))
    .hint("set setting `learn` to scales: scales and biases alone take less"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_in_memory_is_refused() {
        check_memory(10, 1 << 30, None).unwrap();
        check_memory(10, 1 << 30, Some(1 << 30)).unwrap();
        let error = check_memory(10, 2_000_000_000, Some(1_000_000_000)).unwrap_err();
        assert!(error.to_string().contains("takes 2.000 GB of memory, and 1.000 GB are free"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("set setting `learn` to scales")));
        let error = check_memory(10, 1_000_000_001, Some(1_000_000_000)).unwrap_err();
        assert!(error.to_string().contains("takes 1000000001 B of memory, and 1000000000 B are"), "{error}");
    }
}
