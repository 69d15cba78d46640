//! `mixbit quantize`, from arguments to report.

use super::{idle, report};
use crate::choose::candidate::{Candidate, DEFAULT_CANDIDATES};
use crate::choose::plan::Plan;
use crate::choose::recipe::Recipe;
use crate::choose::rules::LayerRule;
use crate::cli::args::{CalibrationText, Quantize};
use crate::cli::commands::settings;
use crate::error::{Error, Result};
use crate::files::output_folder::check_destination;
use crate::jobs;
use crate::jobs::opening::{Need, Quantized, open_as};
use crate::jobs::quantize::{Extent, Job, explain_existing};
use crate::jobs::settings::recipe;
use crate::jobs::texts::check_tokenizer;
use crate::models::source::SourceModel;
use crate::numerics::quant::Quant;
use crate::report::Console;

/// Runs the command.
pub fn run(args: &Quantize, console: &Console) -> Result<()> {
    let output = settings::output(&args.output)?;
    let mut claim = None;
    let quantized = if args.requantize { Quantized::Decoded } else { Quantized::Kept };
    let source = open_as(&args.hf_path, Need::Files, quantized, |source| {
        let calibration = args.calibration.calibration.as_ref().and_then(CalibrationText::file);
        let evaluation = args.eval_data.as_deref().or(calibration);
        check_tokenizer(source, &[calibration, evaluation], console)?;
        let explained = |error| explain_existing(error, &output.path, args.tuning.resume);
        if args.dry_run {
            return check_destination(source.dir(), &output.path, output.existing()).map_err(explained);
        }
        claim = Some(output.claim(source.dir(), console).map_err(explained)?);
        Ok(())
    })?;
    console.notes(&output.notes(&source, quantized)?);
    if args.requantize {
        console.notes(idle::requantize_note(&source).as_slice());
    }
    let recipe = recipe(args.recipe.as_deref(), args.candidates.as_deref(), console)?;
    let plan = plan(args, &source, recipe.as_ref())?;
    let mut settings = settings::quantization(args, output, &source, recipe.as_ref(), &plan)?;
    let uses = settings.uses();
    let calibration = &mut settings.calibration;
    let generated =
        settings::generated_text(&args.calibration, &source, calibration, uses, &args.output.mlx_path)?;
    let mut job = Job::new(&source, plan, settings, console)?;
    report::announce(&job);
    check(args, &job, recipe.as_ref())?;
    let extent = if args.dry_run { Extent::Decision } else { Extent::Model };
    let mut written = None;
    if let Some(text) = &generated {
        job.check_measured(text)?;
        if extent == Extent::Model {
            job.check_start()?;
        }
        let is_new = text.write(&source, console).map_err(|error| job.explain_interruption(error))?;
        written = is_new.then(|| text.path());
    }
    job.read(extent)?;
    idle::check_template(args, &job)?;
    let costs = job.estimate(extent)?;
    let decision = job.decide(costs)?;
    if args.dry_run {
        return report::print_dry_run(&job, &decision, written);
    }
    report::announce_learning(&job, &decision);
    let (decision, record) = job.write_model(decision)?;
    drop(claim);
    report::print(&job, &decision, &record)
}

/// Resolves the candidates of all layers from flags and recipe.
fn plan<'a>(args: &Quantize, source: &'a SourceModel, recipe: Option<&Recipe>) -> Result<Plan<'a>> {
    let dtype = args.dtype.into();
    let rules: Vec<LayerRule> = args.layer.iter().map(|rule| rule.parse()).collect::<Result<_>>()?;
    let mut plan = match recipe {
        Some(recipe) => Plan::with_recipe(source, recipe, &rules, dtype)?,
        None => Plan::new(source, &candidates(args)?, &rules, dtype)?,
    };
    if let Some(setting) = &args.quantize_embeddings {
        let quant = setting.parse().map_err(|e: Error| e.at_setting("--quantize-embeddings"))?;
        plan.quantize_embedding(source, quant)?;
    }
    Ok(plan)
}

fn candidates(args: &Quantize) -> Result<Vec<Candidate>> {
    let size = &args.size;
    if size.bits.is_some() || size.mode.is_some() {
        return Ok(vec![Quant::uniform(size.bits.as_deref(), args.group_size, size.mode)?.into()]);
    }
    args.candidates.as_deref().map_or(Ok(DEFAULT_CANDIDATES.to_vec()), jobs::settings::candidates)
}

/// Fails where the job is impossible, or flags would do nothing.
fn check(args: &Quantize, job: &Job<'_>, recipe: Option<&Recipe>) -> Result<()> {
    // Settings without a flag are the recipe's.
    let blame = |key: &str, flag: Option<u32>, error: Error| match recipe {
        Some(recipe) if flag.is_none() => recipe.blame(key, &error),
        _ => error,
    };
    job.check_target()
        .map_err(|error| if job.is_fixed() { idle::without_choice(args, error) } else { error })?;
    job.check_refinement().map_err(|error| blame("refine", args.tuning.refine, error))?;
    job.check_distillation().map_err(|error| blame("distill", args.tuning.distill, error))?;
    idle::check(args, job)
}
