//! The sensitivity table of a model, measured on a text.

use crate::choose::plan::Plan;
use crate::choose::table::Table;
use crate::error::Result;
use crate::jobs::measure::Measure;
use crate::jobs::settings::Calibration;
use crate::jobs::texts::{Texts, Uses};
use crate::models::source::SourceModel;
use crate::numerics::dtype::float_type;
use crate::numerics::rounding::Technique;
use crate::progress::Progress;

/// Measures what every candidate of every layer of `plan` costs in KL divergence, and how far
/// off predictions for whole models are.
///
/// # Errors
/// When the text or the tokenizer is missing or damaged, the text is too short, a weight is not a number, or the work
/// is interrupted.
pub fn analyze(
    source: &SourceModel,
    plan: &Plan<'_>,
    calibration: &Calibration,
    progress: &dyn Progress,
) -> Result<Table> {
    let texts = Texts::prepare(source, calibration, Uses { scoring: true, tuning: false }, progress)?;
    let technique = calibration.rounding.unwrap_or(Technique::Gptq);
    Measure::prepare(source, calibration, &texts, technique, plan.quants(), float_type(plan.dtype())?)?
        .table(progress)
}
