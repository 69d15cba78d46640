//! A model's report as one HTML file, and its charts as SVG: from what is in the model and how it was made to text.
//!
//! Each section is a plain value, computed in a file of its own; `templates/` turns it into HTML and SVG. The page needs
//! nothing but itself, follows the reader's light or dark theme, and is well-formed XML, so that tests can take it apart.
//! Charts are drawn here because colours must come from the page's variables, and every chart must have a title, a
//! description and its numbers in a table; plotting crates give pixels or fixed styles.

mod axis;
mod bits;
mod classes;
mod curve;
mod distance;
mod made;
mod sample;
mod sensitivity;
mod summary;
mod template;

pub use curve::uniform_points;
pub use sample::{Answer, Sample};

use serde::Serialize;

use crate::allocate::CurvePoint;
use crate::correction::Correction;
use crate::error::Result;
use crate::inventory::{ClassBytes, Inventory};
use crate::record::{Evaluation, Record};
use crate::sensitivity::LayerSensitivity;

/// What a page is made of.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The model's name.
    pub name: &'a str,
    /// Its architecture in a line.
    pub architecture: &'a str,
    /// What is in it.
    pub inventory: &'a Inventory,
    /// What was decided against the config's letter.
    pub notes: &'a [String],
    /// Bytes of the float model, where known.
    pub before: Option<ClassBytes>,
    /// The record beside the weights of how it was made, where there is one.
    pub record: Option<&'a Record>,
    /// How far it is from the float model, where that was measured for this page.
    pub measured: Option<&'a Evaluation>,
    /// A prompt and answers to it.
    pub sample: Option<&'a Sample>,
    /// Version of the MLX that measured and gave the answers.
    pub mlx: Option<&'a str>,
}

impl<'a> Page<'a> {
    /// What was measured: for this page, or before.
    fn evaluation(&self) -> Option<&'a Evaluation> {
        self.measured.or_else(|| self.record?.evaluation.as_ref())
    }
}

/// The page.
pub fn page(page: &Page<'_>) -> Result<String> {
    template::render(
        "page.html",
        &Sections {
            name: page.name,
            architecture: page.architecture,
            notes: page.notes,
            version: env!("CARGO_PKG_VERSION"),
            mlx: page.mlx,
            computed: match (page.sample, page.measured) {
                (Some(_), Some(_)) => "answers and distance",
                (None, Some(_)) => "distance",
                _ => "answers",
            },
            summary: summary::section(page),
            classes: classes::section(page),
            bits: bits::section(page),
            curve: curve::section(page),
            sensitivity: sensitivity::section(page),
            distance: distance::section(page),
            sample: page.sample.map(sample::section),
            made: made::section(page),
        },
    )
}

/// What the page's template is filled with.
#[derive(Serialize)]
struct Sections<'a> {
    name: &'a str,
    architecture: &'a str,
    notes: &'a [String],
    version: &'static str,
    mlx: Option<&'a str>,
    /// What MLX was needed for.
    computed: &'static str,
    summary: summary::Summary,
    classes: classes::Classes,
    bits: bits::Bits,
    curve: Option<curve::Curve>,
    sensitivity: Option<sensitivity::Sensitivity>,
    distance: Option<distance::Distance>,
    sample: Option<sample::Section>,
    made: Option<Vec<(&'static str, String)>>,
}

/// What the template of a chart alone is filled with.
#[derive(Serialize)]
struct Alone {
    chart: curve::Chart,
    alone: bool,
}

/// The chart of size against predicted KL divergence alone, as an SVG file.
pub fn curve_svg(
    points: &[CurvePoint],
    layers: &[LayerSensitivity],
    scale_bytes: usize,
    correction: &Correction,
) -> Result<String> {
    let chart = curve::alone(points, layers, scale_bytes, correction)?;
    template::render("curve.svg", &Alone { chart, alone: true })
}
