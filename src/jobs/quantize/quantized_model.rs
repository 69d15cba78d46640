//! A quantization from settings to the written model, in one call.

use super::estimate::Extent;
use super::job::{Decision, Job};
use super::settings::{EvaluationText, Quantization};
use super::unfinished::explain_existing;
use crate::choose::plan::Plan;
use crate::error::Result;
use crate::jobs::record::Record;
use crate::jobs::texts::check_tokenizer;
use crate::models::source::SourceModel;
use crate::progress::Progress;

/// A written model's bit map, sizes and measurements.
pub struct QuantizedModel {
    /// The bit map, and the measurement that chose it.
    pub decision: Decision,
    /// Sizes, settings, and the measured KL divergence and perplexity, as in the model's `mixbit-report.json`.
    pub record: Record,
}

/// Quantizes `source` by `plan`: measures sensitivities, chooses bits for every layer, rounds, tunes, writes the model
/// and measures it. Nothing of an unfinished model appears at the output.
///
/// # Errors
/// When the target cannot be reached, the output is taken, a text or a tokenizer is missing or damaged, a weight is not
/// a number, the disk is full, or the work is interrupted.
pub fn quantize(
    source: &SourceModel,
    plan: Plan<'_>,
    settings: Quantization,
    progress: &dyn Progress,
) -> Result<QuantizedModel> {
    let calibration = settings.calibration.text.as_deref();
    let evaluation = match &settings.evaluation {
        EvaluationText::File(path) => Some(path.as_path()),
        _ => calibration,
    };
    check_tokenizer(source, &[calibration, evaluation], progress)?;
    let explained = |error| explain_existing(error, &settings.output.path, settings.resume);
    let claim = settings.output.claim(source.dir(), progress).map_err(explained)?;
    let mut job = Job::new(source, plan, settings, progress)?;
    job.check()?;
    job.read(Extent::Model)?;
    let costs = job.estimate(Extent::Model)?;
    let decision = job.decide(costs)?;
    let (decision, record) = job.write_model(decision)?;
    drop(claim);
    Ok(QuantizedModel { decision, record })
}
