//! Time and memory that a quantization will take on this machine.

use super::job::Job;
use super::settings::EvaluationText;
use crate::engine::measure::settings::StepCosts;
use crate::error::Result;
use crate::jobs::estimate::{Work, announce};
use crate::jobs::measure::hold_out;
use crate::numerics::dtype::float_type;

/// Extent to which a quantization is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bits are chosen, and nothing is written.
    Decision,
    /// The model is written and measured.
    Model,
}

impl Job<'_> {
    /// Announces the job's time and memory, where it does more than write, and returns the estimated costs of the
    /// measurement's steps. Fails where codes are to learn and do not fit in memory.
    pub fn estimate(&self, extent: Extent) -> Result<StepCosts> {
        let Some(work) = self.work() else { return Ok(StepCosts::default()) };
        let resumes = self.settings.resume && self.has_kept();
        let scope = match extent {
            Extent::Model if resumes => " for the whole job (what is kept is not done again)",
            Extent::Model => "",
            Extent::Decision if work.candidates > 0 => " for the whole job (a dry run only measures)",
            Extent::Decision => " for the whole job (a dry run does none of it)",
        };
        let dtype = float_type(self.plan.dtype())?;
        let estimate = announce(&work, &self.plan.quants(), dtype, scope, self.progress)?;
        if extent == Extent::Model {
            self.check_memory(estimate.memory)?;
        }
        if !resumes {
            self.progress.begin_job(&estimate.stages);
        }
        Ok(estimate.steps)
    }

    /// Returns the work of the job; none without a text.
    pub(crate) fn work(&self) -> Option<Work<'_>> {
        let texts = self.texts.as_ref()?;
        let (calibration, tuning) = (&self.settings.calibration, self.settings.tuning);
        let held_out = match self.settings.evaluation {
            EvaluationText::Nothing => 0,
            _ => texts.held_out.len(),
        };
        let measured = calibration.measured(texts.sequences.len()).unwrap_or(0);
        let chooses = !self.is_fixed() && self.settings.sensitivities.is_none();
        let split = self.validation_split().ok().filter(|_| tuning.any());
        Some(Work {
            spec: self.source.spec(),
            manifest: self.source.manifest(),
            sequences: texts.sequences.len(),
            measured,
            length: calibration.sequence_length as usize,
            whole: hold_out(texts, measured).sequences.len(),
            candidates: if chooses { self.plan.quants().len() } else { 0 },
            technique: self.technique,
            rounds: true,
            windows: self.evaluation_windows.as_ref().map_or(held_out, |text| text.windows.len()),
            distill: tuning.distill.unwrap_or(0) as usize,
            learning_codes: self.learning_codes(),
            learns_blocks: self.learns_by_block(),
            watched: split.map_or(0, |split| split.validation.len()),
            refine: tuning.refine.unwrap_or(0) as usize,
            activations: calibration.memory,
        })
    }
}
