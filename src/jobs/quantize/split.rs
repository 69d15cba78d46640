//! Split of the calibration text for refinement and distillation.

use super::job::Job;
use super::settings::EvaluationText;
use crate::error::{Error, Result};
use crate::jobs::texts::FEW_VALIDATION_WINDOWS;
use crate::numerics::rounding::Technique;

/// Texts of refinement and distillation: one to learn from, and one to tell whether that helps.
pub struct ValidationSplit {
    /// Sequences to learn from.
    pub sequences: Vec<Vec<u32>>,
    /// Windows to measure on and not to learn from.
    pub validation: Vec<Vec<u32>>,
    /// Name of the validation windows.
    pub name: String,
}

impl Job<'_> {
    /// Splits the calibration text. Validation windows are windows that serve for nothing else; where those are few,
    /// held-out windows too, if the result is not measured on them; otherwise a part of the sequences, which are not
    /// learned from then.
    pub(crate) fn validation_split(&self) -> Result<ValidationSplit> {
        let Some(texts) = &self.texts else { return Err(Error::usage("there is no text to learn from")) };
        let name = format!("windows of {} that serve for nothing else", texts.name);
        if texts.validation.len() >= FEW_VALIDATION_WINDOWS {
            let (sequences, validation) = (texts.sequences.clone(), texts.validation.clone());
            return Ok(ValidationSplit { sequences, validation, name });
        }
        if self.settings.evaluation != EvaluationText::HeldOut {
            let validation = [&texts.held_out[..], &texts.validation].concat();
            return Ok(ValidationSplit { sequences: texts.sequences.clone(), validation, name });
        }
        if texts.sequences.len() < 2 {
            return Err(Error::usage(format!(
                "{} gives one sequence: some are needed to learn from and others to look at",
                texts.name
            ))
            .hint("give a longer setting `calibration` text, more setting `samples` or a smaller setting `sequence_length`"));
        }
        let every = texts.sequences.len().min(8);
        let (mut sequences, mut validation) = (Vec::new(), Vec::new());
        for (index, sequence) in texts.sequences.iter().enumerate() {
            let part = if index % every == every - 1 { &mut validation } else { &mut sequences };
            part.push(sequence.clone());
        }
        let rounded = if self.technique == Technique::Gptq { "were rounded on and" } else { "are" };
        let name = format!("sequences of {} that {rounded} not learned from", texts.name);
        Ok(ValidationSplit { sequences, validation, name })
    }
}
