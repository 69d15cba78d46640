//! Flags that would do nothing: said, and not passed over.

use crate::choose::recipe::Quality;
use crate::cli::commands::templating::refuse_idle;
use crate::error::{Error, Result};
use crate::jobs::quantize::job::Job;
use crate::jobs::quantize::proof::Proof;
use crate::numerics::quant::Mode;
use crate::numerics::rounding::Technique;

impl Job<'_> {
    /// Fails where a flag says how to do what is not done; what a preset leaves out is a note. Where bits are `fixed`
    /// nothing is measured.
    pub(crate) fn check_idle(&self, fixed: bool) -> Result<()> {
        if fixed && self.calibration.quality == Some(Quality::Best) && self.args.tuning.refine.is_none() {
            let left_out = "the preset best leaves --refine out: it moves bits, and here all bits are fixed";
            self.console.notes(&[left_out.to_owned()]);
        }
        self.check_choice(fixed)?;
        self.check_text(fixed)
    }

    /// Fails where flags say how conversations are written out, and neither the calibration text nor `proof` has one.
    pub(crate) fn check_template(&self, proof: Option<&Proof>) -> Result<()> {
        let texts = self.texts.as_ref().map(|texts| (&texts.name, texts.has_conversations));
        let texts = texts.into_iter().chain(proof.map(|proof| (&proof.name, proof.has_conversations)));
        let (names, conversations): (Vec<String>, Vec<bool>) =
            texts.map(|(name, conversations)| (name.clone(), conversations)).unzip();
        refuse_idle(&self.args.calibration.template, &names, conversations.contains(&true))
    }

    /// Flags of the measuring that chooses bits, and of rounding that has a choice.
    fn check_choice(&self, fixed: bool) -> Result<()> {
        let (args, flags) = (self.args, &self.args.calibration);
        if flags.rounding.is_some() && self.technique != Technique::Rtn && !self.is_affine() {
            return Err(Error::usage(format!(
                "--rounding {} goes with affine layers only, and with {} there are none",
                self.technique,
                self.chosen_by()
            ))
            .hint("leave --rounding out: other modes have one way to round"));
        }
        let given = [
            ("--sensitivities", args.sensitivities.is_some()),
            ("--method", flags.method.is_some()),
            ("--sensitivity-samples", flags.sensitivity_samples.is_some()),
        ];
        if args.sensitivities.is_some() && flags.sensitivity_samples.is_some() {
            return Err(Error::usage(
                "--sensitivity-samples says what to measure on, and --sensitivities has measured already",
            )
            .hint("leave one of them out"));
        }
        match given.iter().find(|(_, given)| fixed && *given) {
            Some((flag, _)) => Err(Error::usage(format!(
                "{flag} is for choosing bits, and {} leaves no choice",
                self.chosen_by()
            ))
            .hint(format!("leave {flag} out, or leave layers a choice"))),
            None => Ok(()),
        }
    }

    /// Flags of the text.
    fn check_text(&self, fixed: bool) -> Result<()> {
        let (args, flags) = (self.args, &self.args.calibration);
        let text = self.calibration.text.is_some();
        let measured = !fixed && self.given.is_none();
        let rounded = match self.technique {
            Technique::Rtn => false,
            Technique::Search => !fixed || text,
            Technique::Gptq => true,
        };
        let held_out = (!fixed || text) && !args.no_eval && args.eval_data.is_none();
        let calibrated = measured || rounded || self.tuning.any() || held_out;
        let run = calibrated || args.eval_data.is_some();
        let given = [
            ("--calibration", flags.calibration.is_some(), calibrated),
            ("--samples", flags.samples.is_some(), calibrated),
            ("--sequence-length", flags.sequence_length.is_some(), run),
            ("--seed", flags.seed.is_some(), calibrated),
            ("--activation-memory", flags.activation_memory.is_some(), run),
        ];
        let Some((flag, ..)) = given.iter().find(|(_, given, used)| *given && !used) else { return Ok(()) };
        let (says, done) = match *flag {
            "--activation-memory" => ("how to measure", "measured"),
            _ => ("what to measure on", "measured or rounded with a text"),
        };
        let with = if fixed { self.chosen_by() } else { "--sensitivities and rounding to nearest" };
        let error = Error::usage(format!("{flag} says {says}, and with {with} nothing is {done}"));
        Err(if self.is_affine() {
            error.hint(format!("leave {flag} out, or give --rounding gptq"))
        } else {
            error.hint(format!("leave {flag} out"))
        })
    }

    /// Whether layers may become affine.
    fn is_affine(&self) -> bool {
        self.plan.quants().iter().any(|quant| quant.mode == Mode::Affine)
    }

    /// The flag that says what layers become.
    fn chosen_by(&self) -> &'static str {
        let args = self.args;
        match (&args.size.bits, &args.size.mode, &args.candidates) {
            (Some(_), ..) => "--bits",
            (None, Some(_), _) => "--mode",
            (None, None, Some(_)) => "--candidates",
            _ if args.recipe.is_some() => "--recipe",
            _ => "--layer",
        }
    }
}
