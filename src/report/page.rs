//! From a model and what was measured to the HTML report.

use super::architecture::architecture;
use super::html;
use crate::engine::runtime;
use crate::error::Result;
use crate::jobs::record::{Evaluation, Record};
use crate::models::inventory::{ClassBytes, Inventory};
use crate::models::source::SourceModel;
use crate::report::html::{Page, Sample};

/// The page about `source`; sections that nothing is known for say so.
pub fn page(
    source: &SourceModel,
    inventory: &Inventory,
    found: &Found,
    record: Option<&Record>,
) -> Result<String> {
    let Found { before, measured, sample } = found;
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

/// What was found out for a page.
#[derive(Default)]
pub struct Found {
    /// Bytes of the reference.
    pub(crate) before: Option<ClassBytes>,
    /// How far the model is from it.
    pub(crate) measured: Option<Evaluation>,
    /// What both answered.
    pub(crate) sample: Option<Sample>,
}
