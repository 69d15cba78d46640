//! The HTML report of a model and what was measured of it.

use super::architecture::architecture;
use super::html;
use crate::engine::runtime;
use crate::error::Result;
use crate::jobs::record::{Evaluation, Record};
use crate::models::inventory::{ClassBytes, Inventory};
use crate::models::source::SourceModel;
use crate::report::html::{Page, Sample};

/// Renders the page about `source`; a section without data says so.
pub fn page(
    source: &SourceModel,
    inventory: &Inventory,
    inputs: &PageInputs,
    record: Option<&Record>,
) -> Result<String> {
    let PageInputs { before, measured, sample } = inputs;
    html::page(&Page {
        name: &source.files().title(),
        architecture: &architecture(source, inventory),
        inventory,
        notes: &source.spec().notes,
        before: record.map(|record| record.bytes_before).or(*before),
        record,
        measured: measured.as_ref(),
        sample: sample.as_ref(),
        mlx: runtime::version().filter(|_| measured.is_some() || sample.is_some()),
    })
}

/// Measurements and answers that a page shows, beside what the model's record holds.
#[derive(Default)]
pub struct PageInputs {
    /// Bytes of the reference model.
    pub(crate) before: Option<ClassBytes>,
    /// Distance of the model from the reference.
    pub(crate) measured: Option<Evaluation>,
    /// Answers of both models.
    pub(crate) sample: Option<Sample>,
}
