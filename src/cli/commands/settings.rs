//! Settings of jobs from flags, the recipe and the defaults, in this order of precedence.

use std::path::Path;

use crate::choose::plan::Plan;
use crate::choose::recipe::{Learn, Quality, Recipe};
use crate::cli::args::{self, CalibrationText};
use crate::error::{Error, Result};
use crate::jobs::generated::GeneratedText;
use crate::jobs::quantize::{EvaluationText, Quantization};
use crate::jobs::settings::{
    ACTIVATION_MEMORY, Calibration, Samples, SensitivitySamples, Target, Tuning, sequence_length,
};
use crate::jobs::template::Template;
use crate::jobs::texts::Uses;
use crate::jobs::write::{Output, TowerFate};
use crate::models::source::SourceModel;
use crate::models::spec::DecoderSpec;
use crate::numerics::dtype::Dtype;
use crate::numerics::rounding::Technique;
use crate::report::Console;

/// Resolves text and measurement of sensitivities, for a model with this architecture.
pub fn calibration(
    flags: &args::Calibration,
    recipe: Option<&Recipe>,
    spec: &DecoderSpec,
) -> Result<Calibration> {
    let quality = flags.quality.or_else(|| recipe?.tuning.quality);
    let recipe = recipe.map(|recipe| recipe.calibration.clone()).unwrap_or_default();
    Ok(Calibration {
        text: flags.calibration.as_ref().map_or(recipe.text, |text| text.file().map(Path::to_owned)),
        samples: flags.samples.map_or_else(
            || Samples::AtMost(recipe.samples.unwrap_or_else(|| default_samples(quality))),
            Samples::Exactly,
        ),
        sensitivity_samples: match (flags.sensitivity_samples, recipe.sensitivity_samples) {
            (Some(samples), _) => SensitivitySamples::FromUser(samples),
            (None, Some(samples)) => SensitivitySamples::FromRecipe(samples),
            (None, None) => SensitivitySamples::ByMethod,
        },
        sequence_length: flags
            .sequence_length
            .or(recipe.sequence_length)
            .unwrap_or_else(|| sequence_length(spec)),
        seed: flags.seed.or(recipe.seed).unwrap_or(0),
        memory: flags.activation_memory.unwrap_or(ACTIVATION_MEMORY),
        rounding: flags.rounding.map(Into::into).or(quality.map(|quality| match quality {
            Quality::Fast => Technique::Search,
            Quality::Balanced | Quality::Best => Technique::Gptq,
        })),
        quality,
        method: flags.method.unwrap_or_default(),
        template: template(&flags.template),
    })
}

/// Plans the text that the model is to generate beside `output` for `uses`, if `flags` ask for one, and makes it the text
/// of `calibration`.
pub fn generated_text(
    flags: &args::Calibration,
    source: &SourceModel,
    calibration: &mut Calibration,
    uses: Uses,
    output: &Path,
) -> Result<Option<GeneratedText>> {
    let Some(&CalibrationText::Generated(tokens)) = flags.calibration.as_ref() else { return Ok(None) };
    let text = GeneratedText::plan(source, calibration, tokens, uses, output)?;
    if tokens.is_some() && flags.samples.is_none() {
        calibration.samples = Samples::AtMost(text.samples());
    }
    calibration.text = Some(text.path().to_owned());
    Ok(Some(text))
}

/// Returns the number of sequences of a preset.
const fn default_samples(quality: Option<Quality>) -> u32 {
    match quality {
        Some(Quality::Fast) => 16,
        Some(Quality::Balanced) | None => 64,
        Some(Quality::Best) => 128,
    }
}

/// Resolves refinement and distillation. The preset best asks for those that the plan has a use for. Fails where flags
/// say how to distill and nothing is distilled.
pub fn tuning(
    flags: &args::Tuning,
    recipe: Option<&Recipe>,
    quality: Option<Quality>,
    plan: &Plan<'_>,
    fixed: bool,
) -> Result<Tuning> {
    let is_best = quality == Some(Quality::Best);
    let recipe = recipe.map(|recipe| recipe.tuning).unwrap_or_default();
    let default = if is_best { Learn::Codes } else { Learn::Scales };
    let learn = flags.learn.or(recipe.learn).unwrap_or(default);
    let can_learn = plan.quants().iter().any(|quant| learn.applies_to(*quant));
    let distill = flags.distill.or(recipe.distill).or((is_best && can_learn).then_some(150));
    let distill = distill.filter(|steps| *steps > 0);
    let refine = flags.refine.or(recipe.refine).or((is_best && !fixed).then_some(2));
    for (flag, is_set) in [
        ("--distill-rate", flags.distill_rate.is_some()),
        ("--distill-temperature", flags.distill_temperature.is_some()),
        ("--distill-norms", flags.distill_norms),
        ("--learn", flags.learn.is_some()),
    ] {
        if is_set && distill.is_none() {
            return Err(Error::usage(format!("{flag} says how to distill, and nothing is distilled"))
                .hint("give --distill STEPS"));
        }
    }
    for (flag, is_set) in [
        ("--distill-code-rate", flags.distill_code_rate.is_some()),
        ("--memory-limit", flags.memory_limit.is_some()),
    ] {
        if is_set && learn != Learn::Codes {
            return Err(Error::usage(format!("{flag} says how codes learn, and codes stay"))
                .hint("give --learn codes"));
        }
    }
    Ok(Tuning {
        distill,
        learn,
        code_rate: flags.distill_code_rate,
        memory_limit: flags.memory_limit,
        rate: flags.distill_rate,
        temperature: flags.distill_temperature.unwrap_or(1.0),
        norms: flags.distill_norms || recipe.distill_norms,
        refine: refine.filter(|rounds| *rounds > 0),
    })
}

/// Resolves the size of the result. Flags come before the recipe.
pub fn target(flags: &args::Size, recipe: Option<&Recipe>) -> Target {
    if let Some(bpw) = flags.target_bpw {
        return Target::Bpw(bpw);
    }
    if let Some(size) = flags.target_size {
        return Target::Size(size);
    }
    recipe.and_then(|recipe| recipe.target_bpw).map_or(Target::Fixed, Target::Bpw)
}

/// Returns the chat template that flags ask for.
pub fn template(flags: &args::Template) -> Template {
    let variables = flags.chat_template_config.clone().unwrap_or_default();
    Template { name_or_file: flags.chat_template.clone(), variables, prefill: flags.prefill_response.clone() }
}

/// Returns the dtype of the weights of `source`, with a note where config.json names another.
pub fn own_dtype(source: &SourceModel, console: &Console) -> Result<Dtype> {
    console.notes(source.dtype_note()?.as_slice());
    source.dtype()
}

/// Returns the folder to write.
pub fn output(flags: &args::Output) -> Result<Output> {
    let container = flags.container()?;
    let towers = if flags.keep_towers { TowerFate::Written } else { TowerFate::Dropped };
    Ok(Output { path: flags.mlx_path.clone(), overwrite: flags.overwrite, container, towers })
}

/// Resolves all settings of a quantization by `plan`.
pub fn quantization(
    args: &args::Quantize,
    output: Output,
    source: &SourceModel,
    recipe: Option<&Recipe>,
    plan: &Plan<'_>,
) -> Result<Quantization> {
    let target = target(&args.size, recipe);
    target.check(plan, recipe)?;
    let calibration = calibration(&args.calibration, recipe, source.spec())?;
    let fixed = target == Target::Fixed || plan.is_fixed();
    let tuning = tuning(&args.tuning, recipe, calibration.quality, plan, fixed)?;
    let evaluation = match &args.eval_data {
        Some(path) => EvaluationText::File(path.clone()),
        None if args.no_eval => EvaluationText::Nothing,
        None => EvaluationText::HeldOut,
    };
    Ok(Quantization {
        target,
        recipe: recipe.map(|recipe| recipe.name.clone()),
        calibration,
        tuning,
        sensitivities: args.sensitivities.clone(),
        evaluation,
        output,
        resume: args.tuning.resume,
    })
}
