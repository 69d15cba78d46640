//! Time and memory that a quantization will take here.

use super::job::Job;
use super::proof::Proof;
use super::settings::EvaluationText;
use crate::engine::measure::settings::StepCosts;
use crate::error::Result;
use crate::jobs::estimate::{Work, announce};
use crate::jobs::measure::apart;
use crate::numerics::dtype::float_type;

/// How much of a quantization is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bits are chosen, and nothing is written.
    Decision,
    /// The model is written and measured.
    Model,
}

impl Job<'_> {
    /// Says what the job will take, where that is more than writing, and returns what the steps of the measurement cost.
    pub fn estimate(&self, extent: Extent) -> Result<StepCosts> {
        let Some(work) = self.work() else { return Ok(StepCosts::default()) };
        let resumes = self.settings.resume && self.has_kept();
        let of = match (extent, work.candidates > 0) {
            (Extent::Model, _) if resumes => " for the whole job (what is kept is not done again)",
            (Extent::Model, _) => "",
            (Extent::Decision, true) => " for the whole job (a dry run only measures)",
            (Extent::Decision, false) => " for the whole job (a dry run does none of it)",
        };
        let dtype = float_type(self.settings.dtype)?;
        let estimate = announce(&work, &self.plan.quants(), dtype, of, self.progress)?;
        if !resumes {
            self.progress.begin_job(&estimate.stages);
        }
        Ok(estimate.steps)
    }

    fn work(&self) -> Option<Work<'_>> {
        let texts = self.texts.as_ref()?;
        let (calibration, tuning) = (&self.settings.calibration, self.settings.tuning);
        let held_out = match self.settings.evaluation {
            EvaluationText::Nothing => 0,
            _ => texts.held_out.len(),
        };
        let measured = calibration.measured(texts.sequences.len()).unwrap_or(0);
        let chooses = !self.is_fixed() && self.settings.sensitivities.is_none();
        let watched = self.slice().ok().filter(|_| tuning.any()).map_or(0, |slice| slice.windows.len());
        Some(Work {
            spec: self.source.spec(),
            manifest: self.source.manifest(),
            sequences: texts.sequences.len(),
            measured,
            length: calibration.sequence_length as usize,
            whole: apart(texts, measured).sequences.len(),
            candidates: if chooses { self.plan.quants().len() } else { 0 },
            technique: self.technique,
            rounds: true,
            windows: self.proof.as_ref().map_or(held_out, Proof::windows),
            distill: tuning.distill.unwrap_or(0) as usize,
            watched,
            refine: tuning.refine.unwrap_or(0) as usize,
            activations: calibration.memory,
        })
    }
}
