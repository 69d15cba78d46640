//! What the job will take here.

use crate::error::Result;
use crate::jobs::estimate::{Estimate, Work, announce};
use crate::jobs::measure::apart;
use crate::jobs::quantize::job::Job;
use crate::jobs::quantize::proof::Proof;
use crate::numerics::dtype::float_type;

impl Job<'_> {
    /// Says what the job will take, where that is more than writing. The result is measured on `proof` where that is given.
    pub(crate) fn estimate(&self, proof: Option<&Proof>) -> Result<Option<Estimate>> {
        let Some(work) = self.work(proof) else { return Ok(None) };
        let of = match (self.args.dry_run, work.candidates > 0) {
            (false, _) if self.args.tuning.resume && self.has_kept() => {
                " for the whole job (what is kept is not done again)"
            }
            (false, _) => "",
            (true, true) => " for the whole job (a dry run only measures)",
            (true, false) => " for the whole job (a dry run does none of it)",
        };
        let estimate = announce(&work, &self.plan.quants(), float_type(self.dtype)?, of, self.console)?;
        if !(self.args.tuning.resume && self.has_kept()) {
            self.console.begin_job(&estimate.stages);
        }
        Ok(Some(estimate))
    }

    fn work(&self, proof: Option<&Proof>) -> Option<Work<'_>> {
        let texts = self.texts.as_ref()?;
        let fixed = self.plan.is_fixed() || self.target == crate::jobs::settings::Target::Fixed;
        let held_out = if self.args.no_eval { 0 } else { texts.held_out.len() };
        let windows = proof.map_or(held_out, Proof::windows);
        let measured = self.calibration.measured(texts.sequences.len()).unwrap_or(0);
        let tunes = self.tuning.distill.or(self.tuning.refine).is_some();
        let watched = self.slice().ok().filter(|_| tunes).map_or(0, |slice| slice.windows.len());
        Some(Work {
            spec: self.source.spec(),
            manifest: self.source.manifest(),
            sequences: texts.sequences.len(),
            measured,
            length: self.calibration.sequence_length as usize,
            whole: apart(texts, measured).sequences.len(),
            candidates: if fixed || self.args.sensitivities.is_some() { 0 } else { self.plan.quants().len() },
            technique: self.technique,
            rounds: true,
            windows,
            distill: self.tuning.distill.unwrap_or(0) as usize,
            watched,
            refine: self.tuning.refine.unwrap_or(0) as usize,
            activations: self.calibration.memory,
        })
    }
}
