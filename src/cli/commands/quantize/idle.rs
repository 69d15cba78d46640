//! Flags that would do nothing are errors, or notes where they might do something for another model.

use crate::choose::recipe::Quality;
use crate::cli::args::Quantize;
use crate::cli::commands::templating::refuse_idle;
use crate::error::{Error, Result};
use crate::jobs::quantize::Job;
use crate::models::source::SourceModel;
use crate::numerics::rounding::Technique;
use crate::words::count;

/// Fails where a flag is about work that is not done; work that a preset leaves out is a note.
pub fn check(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let is_best = job.settings.calibration.quality == Some(Quality::Best);
    if job.is_fixed() && is_best && args.tuning.refine.is_none() {
        let left_out = "the preset best leaves --refine out: it moves bits, and here all bits are fixed";
        job.progress.notes(&[left_out.to_owned()]);
    }
    check_choice(args, job)?;
    check_text(args, job)
}

/// Returns a note where `--requantize` has no effect on layers of `source`, which was opened with all layers decoded.
pub fn requantize_note(source: &SourceModel) -> Option<String> {
    let (layers, idle) = (source.incoming().count(), source.always_decoded());
    let why = "MLX lacks their form, so they are decoded without it too";
    if layers == 0 {
        Some("--requantize changes nothing: no layer of this model came quantized".to_owned())
    } else if idle == layers {
        Some(format!("--requantize changes nothing for {}: {why}", count(idle, "quantized layer")))
    } else {
        (idle > 0)
            .then(|| format!("--requantize changes nothing for {idle} of {layers} quantized layers: {why}"))
    }
}

/// Fails where there are flags of chat templates and no text has a conversation.
pub fn check_template(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let calibration = job.texts.iter().map(|texts| (&texts.name, texts.has_conversations));
    let evaluation = job.evaluation_windows.iter().map(|text| (&text.name, text.has_conversations));
    let (names, conversations): (Vec<String>, Vec<bool>) =
        calibration.chain(evaluation).map(|(name, conversations)| (name.clone(), conversations)).unzip();
    refuse_idle(&args.calibration.template, &names, conversations.contains(&true))
}

/// Returns the `error` of a target that is out of reach because no layer has a choice, at the flag that leaves none.
pub fn without_choice(args: &Quantize, error: Error) -> Error {
    let flag = choosing_flag(args);
    let error = error.at_setting(flag);
    if flag != "--candidates" {
        return error;
    }
    error.hint(
        "list several settings, such as --candidates \"3,4,6 x 64\", or give every layer the same with --bits and leave \
         the target out",
    )
}

/// Checks flags of the measurement that chooses bits, and of rounding.
fn check_choice(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let flags = &args.calibration;
    if flags.rounding.is_some() && job.technique != Technique::Rtn && !job.has_affine_layers() {
        return Err(Error::usage(format!(
            "--rounding {} goes with affine layers only, and with {} there are none",
            job.technique,
            choosing_flag(args)
        ))
        .hint("leave --rounding out: other modes have one way to round"));
    }
    let flags_set = [
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
    match flags_set.iter().find(|(_, is_set)| job.is_fixed() && *is_set) {
        Some((flag, _)) => Err(Error::usage(format!(
            "{flag} is for choosing bits, and {} leaves no choice",
            choosing_flag(args)
        ))
        .hint(format!("leave {flag} out, or leave layers a choice"))),
        None => Ok(()),
    }
}

/// Checks flags of the calibration text.
fn check_text(args: &Quantize, job: &Job<'_>) -> Result<()> {
    let (flags, is_fixed) = (&args.calibration, job.is_fixed());
    let has_text = job.settings.calibration.text.is_some();
    let measures = !is_fixed && job.table.is_none();
    let rounds_with_text = match job.technique {
        Technique::Rtn => false,
        Technique::Search => !is_fixed || has_text,
        Technique::Gptq => true,
    };
    let holds_out = (!is_fixed || has_text) && !args.no_eval && args.eval_data.is_none();
    let uses_text = measures || rounds_with_text || job.settings.tuning.any() || holds_out;
    let runs_model = uses_text || args.eval_data.is_some();
    let flags_set = [
        ("--calibration", flags.calibration.is_some(), uses_text),
        ("--samples", flags.samples.is_some(), uses_text),
        ("--sequence-length", flags.sequence_length.is_some(), runs_model),
        ("--seed", flags.seed.is_some(), uses_text),
        ("--activation-memory", flags.activation_memory.is_some(), runs_model),
    ];
    let idle = flags_set.iter().find(|(_, is_set, is_used)| *is_set && !is_used);
    let Some((flag, ..)) = idle else { return Ok(()) };
    let (says, done) = match *flag {
        "--activation-memory" => ("how to measure", "measured"),
        _ => ("what to measure on", "measured or rounded with a text"),
    };
    let with = if is_fixed { choosing_flag(args) } else { "--sensitivities and rounding to nearest" };
    let error = Error::usage(format!("{flag} says {says}, and with {with} nothing is {done}"));
    Err(if job.has_affine_layers() {
        error.hint(format!("leave {flag} out, or give --rounding gptq"))
    } else {
        error.hint(format!("leave {flag} out"))
    })
}

/// Returns the flag that fixes the layers' settings.
fn choosing_flag(args: &Quantize) -> &'static str {
    if args.size.bits.is_some() {
        "--bits"
    } else if args.size.mode.is_some() {
        "--mode"
    } else if args.candidates.is_some() {
        "--candidates"
    } else if args.recipe.is_some() {
        "--recipe"
    } else {
        "--layer"
    }
}
