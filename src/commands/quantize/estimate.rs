//! What the job will take here: rates of this machine, tried for a moment, and what is to be done.

use super::Job;
use super::proof::Proof;
use crate::affine::FloatType;
use crate::candidate::Quant;
use crate::engine::{Engine, matmul_rate};
use crate::error::Result;
use crate::estimate::{Estimate, Rates, Work};
use crate::report::bytes;
use crate::rounding::{Rounder, Technique};
use crate::weights::float_type;

/// Weights that candidates are scored on to see how fast that is, and in rows of how many.
const TRIED: usize = 1 << 17;
const COLUMNS: usize = 256;

impl Job<'_> {
    /// Says what the job will take, where that is more than writing. The result is measured on `proof` where that is given.
    pub(super) fn estimate(&self, proof: Option<&Proof>) -> Result<Option<Estimate>> {
        let Some(work) = self.work(proof) else { return Ok(None) };
        let spec = self.source.spec();
        // Small products say more of how threads wake up than of the machine.
        let sizes = [work.length, spec.hidden_size, spec.intermediate_size].map(|size| size.max(1024));
        let flops = matmul_rate(&Engine::start()?, sizes)?;
        let scored = scoring_rate(&self.plan.quants(), self.technique, float_type(self.dtype)?);
        let estimate = work.estimate(Rates { flops, scored });
        self.console.line(&format!(
            "estimated{}: {estimate}, {} of memory ({:.0} GFLOP a second here)",
            match (self.args.dry_run, work.measured) {
                (false, _) => "",
                (true, true) => " for the whole job (a dry run only measures)",
                (true, false) => " for the whole job (a dry run does none of it)",
            },
            bytes(estimate.memory),
            flops / 1e9
        ));
        Ok(Some(estimate))
    }

    fn work(&self, proof: Option<&Proof>) -> Option<Work<'_>> {
        let texts = self.texts.as_ref()?;
        let fixed = self.plan.is_fixed() || self.target == super::Target::Fixed;
        let held_out = if self.args.no_eval { 0 } else { texts.held_out.len() };
        let windows = proof.map_or(held_out, Proof::windows);
        Some(Work {
            spec: self.source.spec(),
            manifest: self.source.manifest(),
            sequences: texts.sequences.len(),
            length: self.calibration.sequence_length as usize,
            measured: !fixed && self.args.sensitivities.is_none(),
            feedback: self.technique == Technique::Gptq,
            windows,
            distill: self.tuning.distill.unwrap_or(0) as usize,
            refine: self.tuning.refine.unwrap_or(0) as usize,
            activations: self.calibration.memory,
        })
    }
}

/// Weights a second that are rounded to all candidates.
fn scoring_rate(quants: &[Quant], technique: Technique, dtype: FloatType) -> f64 {
    let mut rng = fastrand::Rng::with_seed(1);
    let weights: Vec<f32> = (0..TRIED).map(|_| rng.f32() - 0.5).collect();
    let mut errors = vec![0.0; TRIED];
    let rounder = Rounder { dtype, searched: technique.is_searched(), importance: None };
    let started = std::time::Instant::now();
    for quant in quants {
        // Modes that cannot round uniform values of this size do not exist.
        let _ = rounder.error_into(&weights, COLUMNS, *quant, &mut errors);
    }
    TRIED as f64 / started.elapsed().as_secs_f64().max(1e-9)
}
