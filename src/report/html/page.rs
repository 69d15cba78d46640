//! The page and the order of its sections.

use super::sample::Sample;
use serde::Serialize;

use crate::choose::allocate::CurvePoint;
use crate::choose::correction::Correction;
use crate::choose::scores::LayerSensitivity;
use crate::error::Result;
use crate::jobs::record::{Evaluation, Record};
use crate::models::inventory::{ClassBytes, Inventory};
use crate::numerics::rounding::Technique;

/// Model, record and measurements that a page is made from.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Architecture of the model in one line.
    pub architecture: &'a str,
    /// Layers and bytes of the model.
    pub inventory: &'a Inventory,
    /// Decisions that depart from the letter of the config.
    pub notes: &'a [String],
    /// Bytes of the float model, where known.
    pub before: Option<ClassBytes>,
    /// Record, stored beside the weights, of how the model was made, where there is one.
    pub record: Option<&'a Record>,
    /// Distance from the float model, where it was measured for this page.
    pub measured: Option<&'a Evaluation>,
    /// A prompt and answers to it.
    pub sample: Option<&'a Sample>,
    /// Version of the MLX that measured and gave the answers.
    pub mlx: Option<&'a str>,
}

impl<'a> Page<'a> {
    /// Returns the evaluation that was measured for this page, or else the record's.
    pub(crate) fn evaluation(&self) -> Option<&'a Evaluation> {
        self.measured.or_else(|| self.record?.evaluation.as_ref())
    }
}

/// Renders the page about a model as HTML.
pub fn page(page: &Page<'_>) -> Result<String> {
    super::template::render(
        "page.html",
        &Sections {
            name: page.name,
            architecture: page.architecture,
            notes: page.notes,
            version: env!("CARGO_PKG_VERSION"),
            mlx: page.mlx,
            computed: if page.measured.is_none() {
                "answers"
            } else if page.sample.is_none() {
                "distance"
            } else {
                "answers and distance"
            },
            summary: super::summary::section(page),
            classes: super::classes::section(page),
            bits: super::bits::section(page),
            curve: super::curve::section(page),
            sensitivity: super::sensitivity::section(page),
            distance: super::distance::section(page),
            sample: page.sample.map(super::sample::section),
            provenance: super::provenance::section(page),
        },
    )
}

/// Values that the page's template is filled with.
#[derive(Serialize)]
struct Sections<'a> {
    name: &'a str,
    architecture: &'a str,
    notes: &'a [String],
    version: &'static str,
    mlx: Option<&'a str>,
    /// Parts of the page that MLX computed.
    computed: &'static str,
    summary: super::summary::Summary,
    classes: super::classes::Classes,
    bits: super::bits::Bits,
    curve: Option<super::curve::Curve>,
    sensitivity: Option<super::sensitivity::Sensitivity>,
    distance: Option<super::distance::Distance>,
    sample: Option<super::sample::Section>,
    provenance: Option<Vec<(&'static str, String)>>,
}

/// Values that the template of a chart alone is filled with.
#[derive(Serialize)]
struct Alone {
    chart: super::curve::Chart,
    alone: bool,
}

/// Renders the chart of size against predicted KL divergence alone, as an SVG file.
pub fn curve_svg(
    points: &[CurvePoint],
    layers: &[LayerSensitivity],
    scale_bytes: usize,
    correction: &Correction,
    rounding: Technique,
) -> Result<String> {
    let chart = super::curve::alone(points, layers, scale_bytes, correction, rounding)?;
    super::template::render("curve.svg", &Alone { chart, alone: true })
}
