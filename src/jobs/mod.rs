//! Jobs without a terminal: open a model, analyze, quantize, evaluate, check, convert.
//!
//! Each job is a function of a [`SourceModel`](crate::models::source::SourceModel), plain settings and a
//! [`Progress`](crate::progress::Progress). Nothing here prints or ends the process.
pub(crate) mod analyze;
pub(crate) mod bars;
pub mod check;
pub(crate) mod convert;
pub(crate) mod dequantize;
pub(crate) mod estimate;
pub(crate) mod evaluate;
pub mod evaluation;
pub(crate) mod generated;
pub(crate) mod measure;
pub(crate) mod opening;
pub mod quantize;
pub mod record;
pub(crate) mod scoring;
pub(crate) mod settings;
pub(crate) mod template;
pub(crate) mod texts;
#[doc(hidden)]
pub mod write;

pub use analyze::analyze;
pub use check::check;
pub use convert::convert;
pub use dequantize::dequantize;
pub use evaluate::{EvaluationSettings, EvaluationWindows, evaluate};
pub use opening::{Need, open, open_after};
pub use quantize::{EvaluationText, Quantization, QuantizedModel, quantize};
pub use scoring::Against;
pub use settings::{
    ACTIVATION_MEMORY, Calibration, MeasureMethod, Samples, SensitivitySamples, Target, Tuning,
    sequence_length,
};
pub use template::Template;
pub use write::{Container, Output, Written};
