//! Sensitivities for a command: text, engine, progress.

use sha2::{Digest, Sha256};

use super::quantize::MOST_HELD_OUT;
use super::settings::Calibration;
use crate::affine::FloatType;
use crate::candidate::Quant;
use crate::checkpoint::{Dtype, SourceModel};
use crate::engine::{AnalysisSettings, Engine, analyze};
use crate::error::{Error, Result};
use crate::report::Console;
use crate::sensitivity::{LayerSensitivity, Measurement, Method};
use crate::text::Text;
use crate::tokenizer::Tokenizer;
use crate::weights::check_values;

/// A measurement that is ready to start.
pub struct Measure<'a> {
    source: &'a SourceModel,
    sequences: Vec<Vec<u32>>,
    method: Method,
    memory: u64,
    /// Windows of the text that are not measured on, to be scored on.
    pub held_out: Vec<Vec<u32>>,
    /// What it will be made with.
    pub measurement: Measurement,
}

impl<'a> Measure<'a> {
    /// Tokenizes the text and chooses the sequences.
    pub fn prepare(
        source: &'a SourceModel,
        calibration: &Calibration,
        candidates: Vec<Quant>,
        dtype: FloatType,
        console: &Console,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(source.dir())?;
        let text = Text::open(calibration.text.as_deref())?;
        let length = calibration.sequence_length as usize;
        let samples = calibration.samples as usize;
        let split = text.split(&tokenizer, samples, length, calibration.seed, MOST_HELD_OUT)?;
        let (sequences, held_out) = (split.calibration, split.held_out);
        console.line(&format!("calibration: {} x {length} tokens", sequences.len()));
        check_sequences(source, &sequences, length, console)?;
        check_values(source, Dtype::F32)?;
        let method = calibration.method(&candidates);
        let measurement = Measurement {
            version: 1,
            model: source.fingerprint()?,
            text: digest(&sequences),
            samples: sequences.len(),
            sequence_length: length,
            seed: calibration.seed,
            method: method.to_string(),
            dtype,
            candidates,
        };
        Ok(Self { source, sequences, method, memory: calibration.memory, held_out, measurement })
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
            sequences: &self.sequences,
            candidates: &self.measurement.candidates,
            method: self.method,
            memory: self.memory,
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

/// Tokens that the embedding lacks are an error; more of them than the model was made for, a note.
fn check_sequences(
    source: &SourceModel,
    sequences: &[Vec<u32>],
    length: usize,
    console: &Console,
) -> Result<()> {
    let spec = source.spec();
    let largest = sequences.iter().flatten().max().copied().unwrap_or(0) as usize;
    if largest >= spec.vocab_size {
        return Err(Error::file(
            source.dir(),
            format!("the text has token id {largest}, the model's vocabulary {} tokens", spec.vocab_size),
        )
        .hint("the tokenizer, or the file of token ids, does not belong to this model"));
    }
    if let Some(most) = spec.max_position_embeddings.filter(|&most| length > most) {
        console
            .notes(&[format!("sequences of {length} tokens are longer than the model's context of {most}")]);
    }
    Ok(())
}

fn digest(sequences: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    for token in sequences.iter().flatten() {
        hash.update(token.to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
