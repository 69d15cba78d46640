//! Flags that would do nothing: said, and not passed over.

use crate::choose::recipe::Quality;
use crate::cli::args::Quantize;
use crate::cli::commands::templating::refuse_idle;
use crate::error::{Error, Result};
use crate::jobs::quantize::Job;
use crate::numerics::rounding::Technique;

/// Fails where a flag says how to do what is not done; what a preset leaves out is a note.
pub fn check(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let is_best = job.settings.calibration.quality == Some(Quality::Best);
    if job.is_fixed() && is_best && args.tuning.refine.is_none() {
        let left_out = "the preset best leaves --refine out: it moves bits, and here all bits are fixed";
        job.progress.notes(&[left_out.to_owned()]);
    }
    check_choice(args, job)?;
    check_text(args, job)
}

/// Fails where flags say how conversations are written out, and no text has one.
pub fn check_template(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let calibration = job.texts.iter().map(|texts| (&texts.name, texts.has_conversations));
    let evaluation = job.evaluation_windows.iter().map(|text| (&text.name, text.has_conversations));
    let (names, conversations): (Vec<String>, Vec<bool>) =
        calibration.chain(evaluation).map(|(name, conversations)| (name.clone(), conversations)).unzip();
    refuse_idle(&args.calibration.template, &names, conversations.contains(&true))
}

/// Flags of the measuring that chooses bits, and of rounding that has a choice.
fn check_choice(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let flags = &args.calibration;
    if flags.rounding.is_some() && job.technique != Technique::Rtn && !job.has_affine_layers() {
        return Err(Error::usage(format!(
            "--rounding {} goes with affine layers only, and with {} there are none",
            job.technique,
            chosen_by(args)
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
    match given.iter().find(|(_, given)| job.is_fixed() && *given) {
        Some((flag, _)) => Err(Error::usage(format!(
            "{flag} is for choosing bits, and {} leaves no choice",
            chosen_by(args)
        ))
        .hint(format!("leave {flag} out, or leave layers a choice"))),
        None => Ok(()),
    }
}

/// Flags of the text.
fn check_text(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let (flags, fixed) = (&args.calibration, job.is_fixed());
    let text = job.settings.calibration.text.is_some();
    let measured = !fixed && job.table.is_none();
    let rounded = match job.technique {
        Technique::Rtn => false,
        Technique::Search => !fixed || text,
        Technique::Gptq => true,
    };
    let held_out = (!fixed || text) && !args.no_eval && args.eval_data.is_none();
    let calibrated = measured || rounded || job.settings.tuning.any() || held_out;
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
    let with = if fixed { chosen_by(args) } else { "--sensitivities and rounding to nearest" };
    let error = Error::usage(format!("{flag} says {says}, and with {with} nothing is {done}"));
    Err(if job.has_affine_layers() {
        error.hint(format!("leave {flag} out, or give --rounding gptq"))
    } else {
        error.hint(format!("leave {flag} out"))
    })
}

/// The flag that says what layers become.
fn chosen_by(args: &Quantize) -> &'static str {
    match (&args.size.bits, &args.size.mode, &args.candidates) {
        (Some(_), ..) => "--bits",
        (None, Some(_), _) => "--mode",
        (None, None, Some(_)) => "--candidates",
        _ if args.recipe.is_some() => "--recipe",
        _ => "--layer",
    }
}
