//! How far a fine-tuning is: steps, looks at text that it does not learn from, the best values seen. On disk it is a
//! safetensors file with the rest as JSON in its metadata, beside the output while that is being made.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::adam::Adam;
use super::values::Values;
use crate::error::{Error, Result};
use crate::files::digest::digest;
use crate::files::journal::{Setting, begun_otherwise, fingerprint};
use crate::files::output_file;
use crate::numerics::dtype::extend_f32;

/// Steps between looks at text that is not learned from.
pub const LOOK_EVERY: usize = 10;

/// What a fine-tuning is done with. TuningRun made with other settings is not to be gone on with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of this format.
    pub version: u32,
    /// Fingerprint of the float model.
    pub model: String,
    /// Fingerprint of the quantized model at the start.
    pub student: String,
    /// SHA-256 of the token sequences learned from.
    pub text: String,
    /// SHA-256 of those looked at.
    pub slice: String,
    /// Steps at most.
    pub steps: usize,
    /// The rate of the first step, relative to the scales.
    pub rate: f64,
    /// Temperature of both distributions.
    pub temperature: f64,
    /// Whether norms learn too.
    pub norms: bool,
    /// Seed of the order of the sequences.
    pub seed: u64,
}

impl Settings {
    /// The rate of a step, counted from 0: falls linearly to 0.
    pub fn rate_of(&self, step: usize) -> f64 {
        self.rate * (1.0 - step as f64 / self.steps.max(1) as f64)
    }

    /// The sequences of a step, out of so many: all of them in a random order, then in another.
    pub fn batch(&self, step: usize, size: usize, sequences: usize) -> Vec<usize> {
        let size = size.min(sequences);
        let order = |epoch: usize| {
            let mut order: Vec<usize> = (0..sequences).collect();
            let seed = self.seed ^ (epoch as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            order
        };
        let first = step * size;
        let (epoch, offset) = (first / sequences.max(1), first % sequences.max(1));
        let mut batch: Vec<usize> = order(epoch).into_iter().skip(offset).take(size).collect();
        if batch.len() < size {
            let rest = size - batch.len();
            batch.extend(order(epoch + 1).into_iter().take(rest));
        }
        batch
    }

    /// By name, for messages.
    fn named(&self) -> Vec<Setting> {
        vec![
            ("the format's version", self.version.to_string()),
            ("the model", fingerprint(&self.model)),
            ("--distill", self.steps.to_string()),
            ("--distill-rate", self.rate.to_string()),
            ("--distill-temperature", self.temperature.to_string()),
            ("--distill-norms", if self.norms { "on" } else { "off" }.to_owned()),
            ("--seed", self.seed.to_string()),
            ("the rounded model", fingerprint(&self.student)),
            ("the text learned from", fingerprint(&self.text)),
            ("the text looked at", fingerprint(&self.slice)),
        ]
    }

    /// Looks without improvement after which nothing more is expected: a third of all, at least 5.
    fn patience(&self) -> usize {
        (self.steps / LOOK_EVERY / 3).max(5)
    }
}

/// A look at the text that is not learned from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Steps taken before it.
    pub step: usize,
    /// Mean KL divergence per token, in nats, with all values as they are stored.
    pub kl: f64,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct TuningRun {
    settings: Settings,
    /// Looks so far; the first is before any step.
    pub looks: Vec<Look>,
    /// Values now.
    pub values: Values,
    /// Values at the best look, as they are stored.
    pub best: Values,
}

/// The metadata of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    settings: Settings,
    looks: Vec<Look>,
}

/// Keys of the metadata: the header, and the SHA-256 of that and all values.
const KEY: &str = "distillation";
const SUM: &str = "sha256";

impl TuningRun {
    /// At the start, where the KL divergence is `kl`.
    pub fn new(settings: Settings, values: Values, kl: f64) -> Self {
        Self { settings, looks: vec![Look { step: 0, kl }], best: values.clone(), values }
    }

    /// Steps taken.
    pub fn step(&self) -> usize {
        self.looks.last().map_or(0, |look| look.step)
    }

    /// The look with the lowest KL divergence: the first of equals.
    pub fn best_look(&self) -> Look {
        let start = Look { step: 0, kl: f64::INFINITY };
        self.looks.iter().fold(start, |best, look| if look.kl < best.kl { *look } else { best })
    }

    /// The look before any step.
    pub fn first_look(&self) -> Look {
        self.looks.first().copied().unwrap_or(Look { step: 0, kl: f64::INFINITY })
    }

    /// Records a look: `stored` are the values as they are stored.
    pub fn look(&mut self, mut look: Look, stored: Values) {
        if !look.kl.is_finite() {
            // JSON has no NaN.
            look.kl = f64::MAX;
        }
        if look.kl < self.best_look().kl {
            self.best = stored;
        }
        self.looks.push(look);
    }

    /// Whether all steps are taken, or nothing has improved for long.
    pub fn is_over(&self) -> bool {
        let best = self.best_look().step;
        let waited = self.looks.iter().filter(|look| look.step > best).count();
        self.step() >= self.settings.steps || waited >= self.settings.patience()
    }

    /// Where it is kept while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".partial")
    }

    /// Writes it and the optimizer's moments, replacing `path` in one step.
    pub fn save(&self, path: &Path, adam: &Adam) -> Result<()> {
        let failed = |e: String| Error::file(path, e);
        let header = Header { settings: self.settings.clone(), looks: self.looks.clone() };
        let header = serde_json::to_string(&header).map_err(|e| failed(e.to_string()))?;
        let (mut tensors, mut parts) = (Vec::new(), vec![header.as_bytes()]);
        for (part, values) in
            [("now", &self.values), ("best", &self.best), ("first", &adam.first), ("second", &adam.second)]
        {
            for (name, values) in values {
                let bytes = bytemuck::cast_slice(values);
                parts.push(bytes);
                let view = TensorView::new(Dtype::F32, vec![values.len()], bytes);
                tensors.push((format!("{part}.{name}"), view.map_err(|e| failed(e.to_string()))?));
            }
        }
        let sum = digest(parts);
        let metadata = HashMap::from([(KEY.to_owned(), header), (SUM.to_owned(), sum)]);
        let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|e| failed(e.to_string()))?;
        output_file::write(path, &bytes)
    }

    /// Fails unless the file at `path` was written with these settings, other than for the model at the start, which is not
    /// known before layers are rounded.
    pub fn check(path: &Path, settings: &Settings) -> Result<()> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let was = header(path, &bytes)?.settings;
        let now = Settings { student: was.student.clone(), ..settings.clone() };
        if was == now { Ok(()) } else { Err(begun_otherwise(path, &was.named(), &now.named())) }
    }

    /// Reads what [`save`](Self::save) wrote with the same settings; the moments go to `adam`.
    pub fn read(path: &Path, settings: &Settings, adam: &mut Adam) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let (damaged, header) = (|what: &str| damaged(path, what), header(path, &bytes)?);
        if header.settings != *settings {
            return Err(begun_otherwise(path, &header.settings.named(), &settings.named()));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e.to_string()))?;
        let part = |part: &str| -> Result<Values> {
            adam.first
                .iter()
                .map(|(name, like)| {
                    let found = tensors.tensor(&format!("{part}.{name}")).ok();
                    let found = found.map(|view| {
                        let mut values = Vec::new();
                        extend_f32(crate::numerics::dtype::Dtype::F32, view.data(), &mut values);
                        values
                    });
                    let found = found.filter(|values| values.len() == like.len());
                    Ok((name.clone(), found.ok_or_else(|| damaged(&format!("{part}.{name}")))?))
                })
                .collect::<Result<BTreeMap<_, _>>>()
        };
        let (values, best, first, second) = (part("now")?, part("best")?, part("first")?, part("second")?);
        let all = [&values, &best, &first, &second].into_iter().flat_map(|part| part.values());
        let all = all.map(|values| bytemuck::cast_slice::<f32, u8>(values));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
        let said = |key: &str| metadata.metadata().as_ref().and_then(|found| found.get(key));
        let found = digest(said(KEY).map(String::as_bytes).into_iter().chain(all));
        if said(SUM) != Some(&found) {
            return Err(damaged("its SHA-256 is not the one that was written with it"));
        }
        (adam.first, adam.second) = (first, second);
        Ok(Self { settings: header.settings, looks: header.looks, values, best })
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::file(path, format!("damaged: {what}")).hint(output_file::ANEW)
}

fn header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(path, &e.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let header: Option<Header> = header.and_then(|text| serde_json::from_str(text).ok());
    header.ok_or_else(|| damaged(path, "no distillation's progress"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::adam::Coordinate;
    use super::*;

    fn settings(steps: usize) -> Settings {
        let text = || "t".to_owned();
        Settings {
            version: 1,
            model: text(),
            student: text(),
            text: text(),
            slice: text(),
            steps,
            rate: 0.5,
            temperature: 1.0,
            norms: false,
            seed: 7,
        }
    }

    fn values(value: f32) -> Values {
        Values::from([("a".to_owned(), vec![value, 2.0])])
    }

    #[test]
    fn every_sequence_comes_once_before_any_comes_again() {
        let settings = settings(9);
        let batches: Vec<Vec<usize>> = (0..5).map(|step| settings.batch(step, 4, 10)).collect();
        let all: Vec<usize> = batches.concat();
        let unique = |part: &[usize]| part.iter().copied().collect::<BTreeSet<usize>>().len();
        assert_eq!((unique(&all[..10]), unique(&all[10..])), (10, 10));
        assert_ne!(all[..10], all[10..]);
        assert_eq!(settings.batch(3, 4, 2).len(), 2, "no more than there are");
        assert!((settings.rate_of(0) - 0.5).abs() < 1e-12 && settings.rate_of(9).abs() < 1e-12);
    }

    #[test]
    fn the_best_is_kept_and_waiting_ends() {
        let mut progress = TuningRun::new(settings(1000), values(0.0), 1.0);
        progress.look(Look { step: 10, kl: 0.5 }, values(1.0));
        progress.look(Look { step: 20, kl: f64::NAN }, values(2.0));
        assert_eq!((progress.best_look().step, &progress.best), (10, &values(1.0)));
        let mut step = 20;
        while !progress.is_over() {
            step += 10;
            progress.look(Look { step, kl: 0.6 }, values(3.0));
        }
        assert_eq!((step, &progress.best), (10 + 33 * 10, &values(1.0)));
    }

    #[test]
    fn progress_comes_back_from_its_file_and_only_with_the_same_settings() {
        let home = tempfile::tempdir().unwrap();
        let path = TuningRun::path(&home.path().join("out"));
        let fresh = || Adam::new(vec![Coordinate::Plain("a".to_owned())], &values(1.0));
        let mut adam = fresh();
        let mut progress = TuningRun::new(settings(50), values(1.0), 0.1 + 0.2);
        adam.step(1, 0.1, &mut progress.values, &values(0.3));
        progress.look(Look { step: 10, kl: 1.0 / 3.0 }, values(4.0));
        progress.save(&path, &adam).unwrap();
        let mut back = fresh();
        assert_eq!(TuningRun::read(&path, &settings(50), &mut back).unwrap(), progress);
        assert_eq!((back.first, back.second), (adam.first, adam.second));
        let error = TuningRun::read(&path, &settings(60), &mut fresh()).unwrap_err();
        assert!(error.to_string().ends_with("settings: --distill was 50, now it is 60"), "{error}");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(TuningRun::read(&path, &settings(50), &mut fresh()).is_err());
    }
}
