//! Flags that would do nothing: said, and not passed over.

use super::Job;
use crate::error::{Error, Result};
use crate::recipe::Quality;
use crate::rounding::Technique;

impl Job<'_> {
    /// Fails where a flag says how to do what is not done; what a preset leaves out is a note. Where bits are `fixed`
    /// nothing is measured.
    pub(super) fn check_idle(&self, fixed: bool) -> Result<()> {
        let (args, flags) = (self.args, &self.args.calibration);
        if flags.sequential && self.technique != Technique::Gptq {
            return Err(Error::usage(format!(
                "--sequential goes with GPTQ only, and here rounding is {}",
                self.technique
            ))
            .hint("give --rounding gptq, or leave --sequential out"));
        }
        if fixed && self.calibration.quality == Some(Quality::Best) && self.tuning.refine.is_none() {
            let left_out = "the preset best leaves --refine out: it moves bits, and here all bits are fixed";
            self.console.notes(&[left_out.to_owned()]);
        }
        if !fixed || self.technique == Technique::Gptq || self.tuning.any() {
            return Ok(());
        }
        let weighted = self.technique == Technique::Search && self.calibration.text.is_some();
        let held_out = self.calibration.text.is_some() && !args.no_eval && args.eval_data.is_none();
        if weighted || held_out {
            return Ok(());
        }
        let given = [
            ("--calibration", flags.calibration.is_some()),
            ("--samples", flags.samples.is_some()),
            ("--sequence-length", flags.sequence_length.is_some() && args.eval_data.is_none()),
            ("--seed", flags.seed.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Error::usage(format!(
                "{flag} says what to measure on, and here nothing is measured or rounded with a text"
            ))
            .hint(format!("leave {flag} out, or give --rounding gptq or a --target-bpw"))),
            None => Ok(()),
        }
    }
}
