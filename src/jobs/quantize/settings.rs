//! Settings of a quantization, as plain values.

use std::path::PathBuf;

use crate::jobs::settings::{Calibration, Target, Tuning};
use crate::jobs::write::Output;
use crate::models::source::SourceModel;
use crate::numerics::dtype::Dtype;

/// Settings of a quantization. The layers' candidates are in its [`Plan`](crate::choose::plan::Plan).
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// Size that the model must not exceed.
    pub target: Target,
    /// Element type of scales, biases and all tensors that stay float.
    pub dtype: Dtype,
    /// Name of the recipe that the plan follows, for the record.
    pub recipe: Option<String>,
    /// Text and measurement of sensitivities.
    pub calibration: Calibration,
    /// Refinement and distillation after rounding.
    pub tuning: Tuning,
    /// File of a sensitivity table of `mixbit analyze`, read instead of measuring.
    pub sensitivities: Option<PathBuf>,
    /// Text that the result is measured on.
    pub evaluation: EvaluationText,
    /// Destination of the model.
    pub output: Output,
    /// Resumes an interrupted run with the same settings from its files beside the output.
    pub resume: bool,
}

impl Quantization {
    /// Returns settings that reach `target` bits per weight for `source`, with float16 scales, the built-in calibration
    /// text, GPTQ, and no tuning.
    pub fn to_bpw(target: f64, source: &SourceModel, output: impl Into<PathBuf>) -> Self {
        Self {
            target: Target::Bpw(target),
            dtype: Dtype::F16,
            recipe: None,
            calibration: Calibration::of_model(source.spec()),
            tuning: Tuning::default(),
            sensitivities: None,
            evaluation: EvaluationText::HeldOut,
            output: Output::new(output),
            resume: false,
        }
    }
}

/// Text that a quantized model is measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvaluationText {
    /// Held-out part of the calibration text.
    HeldOut,
    /// A file, in any form that a calibration text may have.
    File(PathBuf),
    /// None: the result is not measured.
    Nothing,
}
