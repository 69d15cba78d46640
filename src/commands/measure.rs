//! Sensitivities for a command: engine and progress.

use sha2::{Digest, Sha256};

use super::settings::Calibration;
use super::texts::Texts;
use crate::affine::FloatType;
use crate::candidate::Quant;
use crate::checkpoint::SourceModel;
use crate::engine::{AnalysisSettings, Engine, analyze};
use crate::error::Result;
use crate::report::Console;
use crate::rounding::Technique;
use crate::sensitivity::{LayerSensitivity, Measurement, Method};
use crate::weights::check_values;

/// A measurement that is ready to start.
pub struct Measure<'a> {
    source: &'a SourceModel,
    sequences: &'a [Vec<u32>],
    method: Method,
    memory: u64,
    /// What it will be made with.
    pub measurement: Measurement,
}

impl<'a> Measure<'a> {
    /// On the `texts`, for the errors that `technique` leaves.
    pub fn prepare(
        source: &'a SourceModel,
        calibration: &Calibration,
        texts: &'a Texts,
        technique: Technique,
        candidates: Vec<Quant>,
        dtype: FloatType,
    ) -> Result<Self> {
        check_values(source, dtype.into())?;
        let method = calibration.method(&candidates);
        let measurement = Measurement {
            version: 1,
            model: source.fingerprint()?,
            text: digest(&texts.sequences),
            samples: texts.sequences.len(),
            sequence_length: calibration.sequence_length as usize,
            seed: calibration.seed,
            method: method.to_string(),
            rounding: if technique.is_searched() { Technique::Search } else { Technique::Rtn },
            dtype,
            candidates,
        };
        let sequences = &texts.sequences;
        Ok(Self { source, sequences, method, memory: calibration.memory, measurement })
    }

    /// Measures every layer whose path is not in `skip` and hands it to `finished`.
    pub fn run(
        &self,
        skip: &[LayerSensitivity],
        console: &Console,
        finished: impl FnMut(LayerSensitivity) -> Result<()>,
    ) -> Result<()> {
        let engine = Engine::start()?;
        let bar = console.steps_bar("measuring sensitivities", 1);
        let settings = AnalysisSettings {
            sequences: self.sequences,
            candidates: &self.measurement.candidates,
            method: self.method,
            memory: self.memory,
            technique: self.measurement.rounding,
            dtype: self.measurement.dtype,
            seed: self.measurement.seed,
            skip: skip.iter().map(|layer| layer.path.clone()).collect(),
            progress: &|done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            },
        };
        analyze(&engine, self.source, &settings, finished)?;
        bar.finish_and_clear();
        Ok(())
    }
}

/// SHA-256 of the tokens.
pub fn digest(sequences: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    for token in sequences.iter().flatten() {
        hash.update(token.to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
