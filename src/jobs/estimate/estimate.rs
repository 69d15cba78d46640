//! An estimate of a job: seconds per stage, and bytes.

use std::fmt;
use std::time::Duration;

use crate::engine::measure::settings::StepCosts;
use crate::models::spec::{DecoderSpec, Manifest};
use crate::numerics::rounding::Technique;
use crate::progress::StageEstimate;

/// Rates of this machine, per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Float32 operations of a matrix product of the model's own sizes.
    pub flops: f64,
    /// Weights that are rounded to nearest, with one candidate.
    pub nearest: f64,
    /// Weights that are rounded as they will be scored, with one candidate.
    pub scored: f64,
    /// Weights that GPTQ finds codes for, beside its products.
    pub fed_back: f64,
}

/// Work of a job.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// The decoder's tensors.
    pub manifest: &'a Manifest,
    /// Calibration sequences; none if nothing is measured or rounded with a text.
    pub sequences: usize,
    /// Number of sequences that sensitivities are measured on.
    pub measured: usize,
    /// Tokens in each, and in each window.
    pub length: usize,
    /// Number of sequences that whole models are measured on.
    pub whole: usize,
    /// Candidates that sensitivities are measured for; none if they are not.
    pub candidates: usize,
    /// Technique that layers are rounded with, or would be.
    pub technique: Technique,
    /// True if layers are rounded.
    pub rounds: bool,
    /// Windows that the result is evaluated on.
    pub windows: usize,
    /// Steps of distillation.
    pub distill: usize,
    /// Codes that distillation tunes; 0 where they stay.
    pub learning_codes: u64,
    /// True if codes learn block by block before logits are compared.
    pub learns_blocks: bool,
    /// Windows that tuning is watched on.
    pub watched: usize,
    /// Rounds of refinement.
    pub refine: usize,
    /// Bytes of hidden states in memory at most.
    pub activations: u64,
}

/// Time and memory to expect.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Stages with their steps; those that take no time are left out.
    pub stages: Vec<StageEstimate>,
    /// Peak resident memory in bytes.
    pub memory: u64,
    /// Costs of the measurement's steps beside each other.
    pub steps: StepCosts,
}

impl Work<'_> {
    /// Estimates the work at the `rates` of a machine.
    pub fn estimate(&self, rates: Rates) -> Estimate {
        let times = super::time::Times::new(self, rates);
        Estimate { stages: times.stages(), memory: self.memory(), steps: times.steps() }
    }
}

impl Estimate {
    /// Returns the time of all stages.
    pub fn total(&self) -> Duration {
        self.stages.iter().map(StageEstimate::time).sum()
    }
}

impl fmt::Display for Estimate {
    /// Writes `measuring 6.2 s, rounding 3.1 s; 9.3 s in all`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in self.stages.iter().enumerate() {
            let (name, time) = (stage.name, stage.time());
            write!(f, "{}{name} {}", if index == 0 { "" } else { ", " }, rough(time))?;
        }
        match self.stages.len() {
            0 => f.write_str("under 1 s"),
            1 => Ok(()),
            _ => write!(f, "; {} in all", rough(self.total())),
        }
    }
}

/// Writes a time with two digits at most.
fn rough(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.95 => "under 1 s".to_owned(),
        seconds if seconds < 9.5 => format!("{seconds:.1} s"),
        seconds if seconds < 100.0 => format!("{seconds:.0} s"),
        seconds if seconds < 5400.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::source::SourceModel;

    #[test]
    fn stages_follow_the_work() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        let source = SourceModel::open(&folder).unwrap();
        let work = Work {
            spec: source.spec(),
            manifest: source.manifest(),
            sequences: 8,
            measured: 8,
            length: 128,
            whole: 2,
            candidates: 18,
            technique: Technique::Gptq,
            rounds: true,
            windows: 4,
            distill: 0,
            learning_codes: 0,
            learns_blocks: false,
            watched: 4,
            refine: 0,
            activations: 1 << 29,
        };
        let rates = Rates { flops: 1e10, nearest: 1e8, scored: 1e7, fed_back: 1e6 };
        let names = |work: Work<'_>| -> Vec<&str> {
            work.estimate(rates).stages.into_iter().map(|stage| stage.name).collect()
        };
        assert_eq!(names(work), ["measuring", "rounding", "evaluating"]);
        let nothing = Work { candidates: 0, rounds: false, windows: 0, ..work };
        assert_eq!(names(nothing), Vec::<&str>::new());
        assert_eq!(nothing.estimate(rates).to_string(), "under 1 s");
        let only = |technique| Work { technique, rounds: true, ..nothing }.estimate(rates);
        let [nearest, search, gptq] = [Technique::Rtn, Technique::Search, Technique::Gptq].map(only);
        assert!(nearest.total() < search.total() && search.total() < gptq.total());
        assert!(nearest.memory < search.memory && search.memory < gptq.memory);
        let tuned = Work { distill: 10, refine: 1, ..work };
        assert_eq!(names(tuned), ["measuring", "rounding", "refining", "distilling", "evaluating"]);
        let codes = Work { learning_codes: 10_000_000, ..tuned }.estimate(rates);
        // Of the stage that takes most, which was another one without codes.
        let more = codes.memory - tuned.estimate(rates).memory;
        assert!((12 * 10_000_000..=13 * 10_000_000).contains(&more), "{more}");
        let (one, two) = (work.estimate(rates), Work { sequences: 16, measured: 16, ..work }.estimate(rates));
        assert!(two.total() > one.total() && two.total() < 2 * one.total());
        assert!(two.memory > one.memory);
        assert!(work.estimate(Rates { flops: 2e10, ..rates }).total() < one.total());
        assert!(one.steps.backward > one.steps.forward);
        assert_eq!(rough(Duration::from_secs(7)), "7.0 s");
        assert_eq!(rough(Duration::from_secs(12)), "12 s");
        assert_eq!(rough(Duration::from_mins(10)), "10 min");
    }
}
