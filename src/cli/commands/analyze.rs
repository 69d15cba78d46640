//! `mixbit analyze`: the sensitivity table alone.

use std::slice;

use super::settings;
use super::templating::refuse_idle;
use crate::choose::candidate::DEFAULT_CANDIDATES;
use crate::choose::plan::Plan;
use crate::choose::table_journal::TableJournal;
use crate::cli::args::Analyze;
use crate::error::Result;
use crate::files::journal;
use crate::files::journal::{Journal, Start};
use crate::files::output_file;
use crate::files::output_file::{Claim, Existing, explain_resuming};
use crate::jobs::analyze::{Analysis, CALIBRATION_USES};
use crate::jobs::opening::{Need, open_after};
use crate::jobs::settings::{candidates, recipe};
use crate::report::Console;
use crate::words::count;

/// Runs the command.
pub fn run(args: &Analyze, console: &Console) -> Result<()> {
    let mut claim = None;
    let source = open_after(&args.model, Need::Weights, |_| {
        let checked = output_file::check(&args.out, Existing::replaced_if(args.overwrite));
        if args.resume { checked.map_err(explain_resuming) } else { checked }?;
        claim = Some(Claim::new(&args.out)?);
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
        (None, Some(list)) => Plan::new(&source, &candidates(list)?, &[], dtype)?,
        (None, None) => Plan::new(&source, &DEFAULT_CANDIDATES, &[], dtype)?,
    };
    let mut calibration = settings::calibration(&args.calibration, recipe.as_ref(), source.spec())?;
    console.notes(&source.spec().notes);
    let generated =
        settings::generated_text(&args.calibration, &source, &mut calibration, CALIBRATION_USES, &args.out)?;
    if let Some(text) = generated {
        text.check_measured(&calibration, CALIBRATION_USES)?;
        text.write(&source, console)?;
    }
    let analysis = Analysis::new(&source, &plan, &calibration, console)?;
    let texts = &analysis.texts;
    refuse_idle(&args.calibration.template, slice::from_ref(&texts.name), texts.has_conversations)?;
    let table = analysis.write(&args.out, Start::resumed_if(args.resume), console)?;
    drop(claim);
    console.done(&format!("{} in {}", count(table.layers.len(), "layer"), args.out.display()));
    Ok(())
}
