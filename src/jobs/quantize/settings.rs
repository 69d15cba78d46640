//! Settings of a quantization, as plain values.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::jobs::settings::{Calibration, Target, Tuning};
use crate::jobs::texts::Uses;
use crate::jobs::write::Output;
use crate::models::source::SourceModel;

/// Settings of a quantization. The layers' candidates are in its [`Plan`](crate::choose::plan::Plan).
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// Size that the model must not exceed.
    pub target: Target,
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

impl Quantization {
    /// Returns the uses of the calibration text.
    pub(crate) fn uses(&self) -> Uses {
        let tuning = self.tuning.any();
        Uses { scoring: self.evaluation == EvaluationText::HeldOut || tuning, tuning }
    }

    /// Fails where a number is out of its range.
    pub(crate) fn check(&self) -> Result<()> {
        let Calibration { samples, sequence_length, .. } = self.calibration;
        let Tuning { rate, code_rate, temperature, .. } = self.tuning;
        let wrong = |setting: &str, value: &dyn fmt::Display, expected: &str| {
            Err(Error::usage(format!("setting `{setting}` is {value}: it must be {expected}")))
        };
        let is_positive = |number: f64| number.is_finite() && number > 0.0;
        if samples.count() == 0 {
            return wrong("samples", &samples.count(), "at least 1");
        }
        if sequence_length < 2 {
            return wrong("sequence_length", &sequence_length, "at least 2");
        }
        if !is_positive(temperature) {
            return wrong("distill_temperature", &temperature, "a number above 0");
        }
        for (setting, rate) in [("distill_rate", rate), ("distill_code_rate", code_rate)] {
            if let Some(rate) = rate.filter(|&rate| !is_positive(rate)) {
                return wrong(setting, &rate, "a number above 0");
            }
        }
        Ok(())
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
