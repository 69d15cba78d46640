//! The sensitivity table of a model, measured on a text.

use std::path::Path;

use crate::choose::plan::Plan;
use crate::choose::table::Table;
use crate::choose::table_journal::TableJournal;
use crate::error::Result;
use crate::files::journal::{self, Start};
use crate::jobs::estimate::{Work, announce};
use crate::jobs::measure::{Measure, hold_out};
use crate::jobs::settings::Calibration;
use crate::jobs::texts::{Texts, Uses};
use crate::models::source::SourceModel;
use crate::numerics::dtype::float_type;
use crate::numerics::rounding::Technique;
use crate::progress::Progress;
use crate::words::count;

/// What the calibration text of a sensitivity table serves for beside calibration.
pub const CALIBRATION_USES: Uses = Uses { scoring: true, tuning: false };

/// Measures what every candidate of every layer of `plan` costs in KL divergence, and how far off predictions for whole
/// models are.
///
/// # Errors
/// When the text or the tokenizer is missing or damaged, the text is too short, a weight is not a number, or the work is
/// interrupted.
pub fn analyze(
    source: &SourceModel,
    plan: &Plan<'_>,
    calibration: &Calibration,
    progress: &dyn Progress,
) -> Result<Table> {
    let analysis = Analysis::new(source, plan, calibration, progress)?;
    analysis.measure()?.table(progress)
}

/// A measurement of sensitivities whose text is read.
pub struct Analysis<'a> {
    source: &'a SourceModel,
    plan: &'a Plan<'a>,
    calibration: &'a Calibration,
    /// The calibration text.
    pub texts: Texts,
}

impl<'a> Analysis<'a> {
    /// Reads the text of `calibration` for `source`.
    pub fn new(
        source: &'a SourceModel,
        plan: &'a Plan<'a>,
        calibration: &'a Calibration,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let texts = Texts::prepare(source, calibration, CALIBRATION_USES, progress)?;
        Ok(Self { source, plan, calibration, texts })
    }

    /// Measures as [`analyze`] does and writes the table to `out`. Layers that are measured are kept beside it, and a
    /// resumed measurement begins with them.
    pub fn write(&self, out: &Path, start: Start, progress: &dyn Progress) -> Result<Table> {
        let (quants, dtype) = (self.plan.quants(), float_type(self.plan.dtype())?);
        let work = self.work()?;
        let measure = self.measure()?;
        let scope = if start == Start::Resumed { " for the whole job" } else { "" };
        let estimate = announce(&work, &quants, dtype, scope, progress)?;
        let measure = measure.with_costs(estimate.steps);
        let mut journal = TableJournal::open(out, &measure.measurement, start)?;
        progress.notes(journal.damage_note().as_slice());
        let measured = journal.layers.clone();
        if measured.is_empty() {
            // The estimates are those of the whole job.
            progress.begin_job(&estimate.stages);
        } else {
            let layers = count(self.plan.len(), "layer");
            progress.line(&format!("resuming: {} of {layers} measured already", measured.len()));
        }
        if measured.is_empty() && start == Start::Resumed {
            let name = TableJournal::path(out).display().to_string();
            progress.notes(&[journal::nothing_to_resume(&[name])]);
        }
        let correction = measure
            .run(&measured, progress, |layer| journal.append(layer))
            .and_then(|()| measure.correct(&journal.layers, progress))
            .inspect_err(|_| journal.remove_if_empty())
            .map_err(|e| journal.with_resume_hint(e))?;
        journal.finish(out, measure.measurement.clone(), correction)
    }

    fn technique(&self) -> Technique {
        self.calibration.rounding.unwrap_or(Technique::Gptq)
    }

    fn measure(&self) -> Result<Measure<'_>> {
        let dtype = float_type(self.plan.dtype())?;
        let (texts, technique) = (&self.texts, self.technique());
        Measure::prepare(self.source, self.calibration, texts, technique, self.plan.quants(), dtype)
    }

    fn work(&self) -> Result<Work<'a>> {
        let measured = self.calibration.measured(self.texts.sequences.len())?;
        Ok(Work {
            spec: self.source.spec(),
            manifest: self.source.manifest(),
            sequences: self.texts.sequences.len(),
            measured,
            length: self.calibration.sequence_length as usize,
            whole: hold_out(&self.texts, measured).sequences.len(),
            candidates: self.plan.quants().len(),
            technique: self.technique(),
            rounds: false,
            windows: 0,
            distill: 0,
            learning_codes: 0,
            learns_blocks: false,
            watched: 0,
            refine: 0,
            activations: self.calibration.memory,
        })
    }
}
