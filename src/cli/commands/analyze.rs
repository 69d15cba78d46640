//! `mixbit analyze`: the sensitivity table alone.

use std::slice;

use super::settings;
use super::templating::refuse_idle;
use crate::choose::candidate::{Candidate, DEFAULT_CANDIDATES};
use crate::choose::plan::Plan;
use crate::choose::table_journal::TableJournal;
use crate::cli::args::Analyze;
use crate::error::Result;
use crate::files::journal;
use crate::files::journal::{Journal, Start};
use crate::files::output_file;
use crate::files::output_file::Claim;
use crate::jobs::estimate::{Work, announce};
use crate::jobs::measure::{Measure, hold_out};
use crate::jobs::opening::{Need, open_after};
use crate::jobs::settings::{Calibration, recipe};
use crate::jobs::texts::{Texts, Uses};
use crate::models::source::SourceModel;
use crate::numerics::dtype::float_type;
use crate::numerics::rounding::Technique;
use crate::report::Console;
use crate::words::count;

/// Runs the command.
pub fn run(args: &Analyze, console: &Console) -> Result<()> {
    let mut claim = None;
    let source = open_after(&args.model, Need::Weights, |_| {
        output_file::check(&args.out, args.overwrite)?;
        claim = Claim::new(&args.out)?;
        let unfinished = TableJournal::path(&args.out);
        if !args.resume && !args.overwrite && Journal::has_unfinished(&unfinished, None)? {
            return Err(journal::unfinished(&unfinished));
        }
        Ok(())
    })?;
    let dtype = args.dtype.into();
    let recipe = recipe(args.recipe.as_deref(), args.candidates.as_deref(), console)?;
    let plan = match (&recipe, &args.candidates) {
        (Some(recipe), _) => Plan::with_recipe(&source, recipe, &[], dtype)?,
        (None, Some(list)) => Plan::new(&source, &Candidate::parse_list(list)?, &[], dtype)?,
        (None, None) => Plan::new(&source, &DEFAULT_CANDIDATES, &[], dtype)?,
    };
    let calibration = settings::calibration(&args.calibration, recipe.as_ref(), source.spec())?;
    console.notes(&source.spec().notes);
    let texts = Texts::prepare(&source, &calibration, Uses { scoring: true, tuning: false }, console)?;
    refuse_idle(&args.calibration.template, slice::from_ref(&texts.name), texts.has_conversations)?;
    let technique = calibration.rounding.unwrap_or(Technique::Gptq);
    let (quants, float) = (plan.quants(), float_type(dtype)?);
    let work = work(&source, &calibration, &texts, quants.len(), technique)?;
    let measure = Measure::prepare(&source, &calibration, &texts, technique, quants.clone(), float)?;
    let scope = if args.resume { " for the whole job" } else { "" };
    let estimate = announce(&work, &quants, float, scope, console)?;
    console.begin_job(&estimate.stages);
    let measure = measure.with_costs(estimate.steps);
    let start = Start::resumed_if(args.resume);
    let mut journal = TableJournal::open(&args.out, &measure.measurement, start)?;
    console.notes(journal.damage_note().as_slice());
    let measured = journal.layers.clone();
    if !measured.is_empty() {
        console.line(&format!(
            "resuming: {} of {} measured already",
            measured.len(),
            count(plan.len(), "layer")
        ));
    }
    if args.resume && measured.is_empty() {
        let name = args.out.display();
        console.notes(&[format!("nothing to resume beside {name}: starting from the beginning")]);
    }
    let correction = measure
        .run(&measured, console, |layer| journal.append(layer))
        .and_then(|()| measure.correct(&journal.layers, console))
        .map_err(|e| journal.with_resume_hint(e))?;
    let table = journal.finish(&args.out, measure.measurement.clone(), correction)?;
    drop(claim);
    console.done(&format!("{} in {}", count(table.layers.len(), "layer"), args.out.display()));
    Ok(())
}

/// Returns the work of measuring sensitivities for so many `candidates`.
fn work<'a>(
    source: &'a SourceModel,
    calibration: &Calibration,
    texts: &Texts,
    candidates: usize,
    technique: Technique,
) -> Result<Work<'a>> {
    let measured = calibration.measured(texts.sequences.len())?;
    Ok(Work {
        spec: source.spec(),
        manifest: source.manifest(),
        sequences: texts.sequences.len(),
        measured,
        length: calibration.sequence_length as usize,
        whole: hold_out(texts, measured).sequences.len(),
        candidates,
        technique,
        rounds: false,
        windows: 0,
        distill: 0,
        watched: 0,
        refine: 0,
        activations: calibration.memory,
    })
}
