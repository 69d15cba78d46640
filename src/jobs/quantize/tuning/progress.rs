//! A fine-tuning under way: steps, looks at text that it does not learn from, the best values seen. Its journal is replaced
//! after every look.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::adam::Adam;
use super::values::Values;
use crate::error::Result;
use crate::files::journal::{Header, Journal, MODEL, damaged};
use crate::files::output_file;
use crate::numerics::dtype::{Dtype, extend_f32};

/// Steps between looks at text that is not learned from.
pub const LOOK_EVERY: usize = 10;

/// Settings of a fine-tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Fingerprint of the float model.
    pub model: String,
    /// Fingerprint of the quantized model at the start.
    pub student: String,
    /// SHA-256 of the token sequences learned from.
    pub text: String,
    /// SHA-256 of the token sequences looked at.
    pub slice: String,
    /// Steps at most.
    pub steps: usize,
    /// The rate of the first step, relative to the scales.
    pub rate: f64,
    /// Temperature of both distributions.
    pub temperature: f64,
    /// True if norms learn too.
    pub norms: bool,
    /// Seed of the order of the sequences.
    pub seed: u64,
}

impl Settings {
    /// Returns the rate of a step, counted from 0: falls linearly to 0.
    pub fn rate_of(&self, step: usize) -> f64 {
        self.rate * (1.0 - step as f64 / self.steps.max(1) as f64)
    }

    /// Returns the sequences of a step, out of so many: all of them in a random order, then in another.
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

    /// Returns the header of the journal.
    pub fn header(&self) -> Header {
        Header::new("distillation")
            .with("mixbit's version", env!("CARGO_PKG_VERSION"))
            .with(MODEL, &self.model)
            .with("distill", self.steps)
            .with("distill_rate", self.rate)
            .with("distill_temperature", self.temperature)
            .with("distill_norms", if self.norms { "on" } else { "off" })
            .with("seed", self.seed)
            .with("the rounded model", &self.student)
            .with("the text learned from", &self.text)
            .with("the text looked at", &self.slice)
    }

    /// Returns the looks without improvement after which nothing more is expected: a third of all, at least 5.
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

/// Steps so far, and what came of them.
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

impl TuningRun {
    /// Begins at `values`, where the KL divergence is `kl`.
    pub fn new(settings: Settings, values: Values, kl: f64) -> Self {
        Self { settings, looks: vec![Look { step: 0, kl }], best: values.clone(), values }
    }

    /// Returns the number of steps taken.
    pub fn step(&self) -> usize {
        self.looks.last().map_or(0, |look| look.step)
    }

    /// Returns the look with the lowest KL divergence: the first of equals.
    pub fn best_look(&self) -> Look {
        let start = Look { step: 0, kl: f64::INFINITY };
        self.looks.iter().fold(start, |best, look| if look.kl < best.kl { *look } else { best })
    }

    /// Returns the look before any step.
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

    /// True if all steps are taken, or nothing has improved for long.
    pub fn is_over(&self) -> bool {
        let best = self.best_look().step;
        let waited = self.looks.iter().filter(|look| look.step > best).count();
        self.step() >= self.settings.steps || waited >= self.settings.patience()
    }

    /// Path of the journal while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".partial")
    }

    /// Writes values and the optimizer's moments, replacing `path` in one step.
    pub fn save(&self, path: &Path, adam: &Adam) -> Result<()> {
        let tensors =
            [&self.values, &self.best, &adam.first, &adam.second].into_iter().flat_map(Values::values);
        let payload: Vec<&[u8]> = tensors.map(|values| bytemuck::cast_slice(values)).collect();
        Journal::replace(path, &self.settings.header(), &self.looks, &payload)
    }

    /// Reads what [`save`](Self::save) wrote with the same settings, where there is such a journal; the moments go to `adam`.
    pub fn read(path: &Path, settings: &Settings, adam: &mut Adam) -> Result<Option<Self>> {
        let Some((looks, payload)) = Journal::read::<Vec<Look>>(path, &settings.header())? else {
            return Ok(None);
        };
        let lengths: Vec<(&String, usize)> =
            adam.first.iter().map(|(name, values)| (name, values.len())).collect();
        let mut numbers = Vec::with_capacity(payload.len() / Dtype::F32.size());
        extend_f32(Dtype::F32, &payload, &mut numbers);
        if numbers.len() != 4 * lengths.iter().map(|(_, length)| length).sum::<usize>() {
            return Err(damaged(path));
        }
        let mut numbers = numbers.into_iter();
        let mut tensors = || -> Values {
            lengths
                .iter()
                .map(|&(name, length)| (name.clone(), numbers.by_ref().take(length).collect()))
                .collect()
        };
        let (values, best, first, second) = (tensors(), tensors(), tensors(), tensors());
        (adam.first, adam.second) = (first, second);
        Ok(Some(Self { settings: settings.clone(), looks, values, best }))
    }
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
    fn the_best_look_is_kept_and_patience_ends() {
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
    fn a_resumed_run_is_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let path = TuningRun::path(&home.path().join("out"));
        let fresh = || Adam::new(vec![Coordinate::Plain("a".to_owned())], &values(1.0));
        let mut adam = fresh();
        let mut run = TuningRun::new(settings(50), values(1.0), 0.1 + 0.2);
        adam.step(1, 0.1, &mut run.values, &values(0.3));
        run.look(Look { step: 10, kl: 1.0 / 3.0 }, values(4.0));
        assert_eq!(TuningRun::read(&path, &settings(50), &mut fresh()).unwrap(), None);
        run.save(&path, &adam).unwrap();
        let mut back = fresh();
        assert_eq!(TuningRun::read(&path, &settings(50), &mut back).unwrap(), Some(run));
        assert_eq!((back.first, back.second), (adam.first, adam.second));
        let mut other = Adam::new(Vec::new(), &Values::from([("a".to_owned(), vec![1.0])]));
        assert!(TuningRun::read(&path, &settings(50), &mut other).is_err(), "another model's values");
    }
}
