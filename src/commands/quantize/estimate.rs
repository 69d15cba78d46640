//! What the job will take here: rates of this machine, tried for a moment, and what is to be done.

use super::Job;
use super::proof::Proof;
use crate::affine::FloatType;
use crate::candidate::Quant;
use crate::engine::{Engine, matmul_rate};
use crate::error::Result;
use crate::estimate::{Estimate, Rates, Work};
use crate::report::bytes;
use crate::rounding::{DAMPING, Hessian, Rounder, Technique, gptq};
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
        let estimate = work.estimate(self.rates(flops)?);
        self.console.line(&format!(
            "estimated{}: {estimate}, {} of memory ({:.0} GFLOP a second here)",
            match (self.args.dry_run, work.candidates > 0) {
                (false, _) if self.args.tuning.resume && self.has_kept() => {
                    " for the whole job (what is kept is not done again)"
                }
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
            measured: self.calibration.measured(texts.sequences.len()).unwrap_or(0),
            length: self.calibration.sequence_length as usize,
            candidates: if fixed || self.args.sensitivities.is_some() { 0 } else { self.plan.quants().len() },
            feedback: self.technique == Technique::Gptq,
            windows,
            distill: self.tuning.distill.unwrap_or(0) as usize,
            watched: self
                .tuning
                .distill
                .and_then(|_| self.slice().ok())
                .map_or(0, |slice| slice.windows.len()),
            refine: self.tuning.refine.unwrap_or(0) as usize,
            activations: self.calibration.memory,
        })
    }

    /// What this machine does in a second.
    fn rates(&self, flops: f64) -> Result<Rates> {
        let (quants, dtype) = (self.plan.quants(), float_type(self.dtype)?);
        let mut rng = fastrand::Rng::with_seed(1);
        let weights: Vec<f32> = (0..TRIED).map(|_| rng.f32() - 0.5).collect();
        let rounder = Rounder { dtype, searched: self.technique.is_searched(), importance: None };
        Ok(Rates {
            flops,
            nearest: rounding_rate(&weights, &quants, Rounder { searched: false, ..rounder }),
            scored: rounding_rate(&weights, &quants, rounder),
            fed_back: if self.technique == Technique::Gptq { feedback_rate(&weights, dtype) } else { 1.0 },
        })
    }
}

/// Weights a second that are rounded to one of `quants`.
fn rounding_rate(weights: &[f32], quants: &[Quant], rounder: Rounder<'_>) -> f64 {
    let mut errors = vec![0.0; weights.len()];
    let tried = || {
        for quant in quants {
            // Modes that cannot round uniform values of this size do not exist.
            let _ = rounder.error_into(weights, COLUMNS, *quant, &mut errors);
        }
    };
    (weights.len() * quants.len()) as f64 / seconds(tried)
}

/// Weights a second that GPTQ finds codes for.
fn feedback_rate(weights: &[f32], dtype: FloatType) -> f64 {
    // Neighbours that go together: where nothing does, scale search is tried as well.
    let moment = |at: usize| 0.9_f32.powi((at / COLUMNS).abs_diff(at % COLUMNS) as i32);
    let moments: Vec<f32> = (0..COLUMNS * COLUMNS).map(moment).collect();
    let Ok(hessian) = Hessian::new(&moments, COLUMNS, DAMPING) else { return 1.0 };
    weights.len() as f64 / seconds(|| drop(gptq(weights, Quant::affine(4, 64), dtype, &hessian)))
}

/// Of the second of two tries: the first wakes threads up.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let started = std::time::Instant::now();
    work();
    started.elapsed().as_secs_f64().max(1e-9)
}
