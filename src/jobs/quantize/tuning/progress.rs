//! A fine-tuning under way: steps, looks at text that it does not learn from, the best values seen. Its journal is replaced
//! after every look.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::adam::{Adam, Rates};
use super::values::{State, Stored, Values};
use crate::choose::recipe::Learn;
use crate::error::Result;
use crate::files::journal::{Header, Journal, MODEL, damaged};
use crate::files::output_file;

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
    /// The rate of the first step of codes, in steps of one code, if they learn.
    pub code_rate: Option<f64>,
    /// Temperature of both distributions.
    pub temperature: f64,
    /// True if norms learn too.
    pub norms: bool,
    /// Seed of the order of the sequences.
    pub seed: u64,
}

impl Settings {
    /// Returns the rates of a step, counted from 0: fall to 0, linearly for floats, by half a cosine for codes.
    pub fn rates_of(&self, step: usize) -> Rates {
        let done = step as f64 / self.steps.max(1) as f64;
        let cosine = f64::midpoint(1.0, (std::f64::consts::PI * done).cos());
        Rates { floats: self.rate * (1.0 - done), codes: self.code_rate.unwrap_or(0.0) * cosine }
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
        let code_rate = self.code_rate.map_or_else(|| "off".to_owned(), |rate| rate.to_string());
        Header::new("distillation")
            .with("mixbit's version", env!("CARGO_PKG_VERSION"))
            .with(MODEL, &self.model)
            .with("distill", self.steps)
            .with("learn", if self.code_rate.is_some() { Learn::Codes } else { Learn::Scales })
            .with("distill_code_rate", code_rate)
            .with("distill_rate", self.rate)
            .with("distill_temperature", self.temperature)
            .with("distill_norms", if self.norms { "on" } else { "off" })
            .with("seed", self.seed)
            .with("the rounded model", &self.student)
            .with("the text learned from", &self.text)
            .with("the text looked at", &self.slice)
    }

    /// Returns the header of the journal of blocks that learn with these settings.
    pub fn blocks_header(&self) -> Header {
        let Self { model, student, text, slice, steps, rate, code_rate, seed, .. } = self;
        Header::new("learning of blocks")
            .with("mixbit's version", env!("CARGO_PKG_VERSION"))
            .with(MODEL, model)
            .with("distill", steps)
            .with("distill_code_rate", code_rate.unwrap_or_default())
            .with("distill_rate", rate)
            .with("seed", seed)
            .with("the rounded model", student)
            .with("the text learned from", text)
            .with("the text looked at", slice)
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
    /// The loss with all values as they are stored: the mean KL divergence per token, in nats, or the error of a block's outputs.
    #[serde(alias = "kl")]
    pub loss: f64,
}

/// Steps so far, and what came of them.
#[derive(Debug, Clone, PartialEq)]
pub struct TuningRun {
    settings: Settings,
    /// Looks so far; the first is before any step.
    pub looks: Vec<Look>,
    /// Values now.
    pub state: State,
    /// Values at the best look.
    pub best: Stored,
}

impl TuningRun {
    /// Begins at `state`, which is stored as `stored`, before the first look.
    pub fn new(settings: Settings, state: State, stored: Stored) -> Self {
        Self { settings, looks: Vec::new(), state, best: stored }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the number of steps taken.
    pub fn step(&self) -> usize {
        self.looks.last().map_or(0, |look| look.step)
    }

    /// Returns the look with the lowest loss: the first of equals.
    pub fn best_look(&self) -> Look {
        let start = Look { step: 0, loss: f64::INFINITY };
        self.looks.iter().fold(start, |best, look| if look.loss < best.loss { *look } else { best })
    }

    /// Returns the look before any step.
    pub fn first_look(&self) -> Look {
        self.looks.first().copied().unwrap_or(Look { step: 0, loss: f64::INFINITY })
    }

    /// Records a look. `stored` gives the values as they are stored, and is called if none was better.
    pub fn look(&mut self, mut look: Look, stored: impl FnOnce(&State) -> Stored) {
        if !look.loss.is_finite() {
            // JSON has no NaN.
            look.loss = f64::MAX;
        }
        if look.loss < self.best_look().loss {
            self.best = stored(&self.state);
        }
        self.looks.push(look);
    }

    /// True if all steps are taken, or nothing has improved for long in their second half. In the first, rates are high: values
    /// swing, and what they gain shows as the rates fall.
    pub fn is_over(&self) -> bool {
        let best = self.best_look().step.max(self.settings.steps / 2);
        let waited = self.looks.iter().filter(|look| look.step > best).count();
        self.step() >= self.settings.steps || waited >= self.settings.patience()
    }

    /// Path of the journal while `output` is being made.
    pub fn path(output: &Path) -> PathBuf {
        output_file::beside(output, ".partial")
    }

    /// Writes values and the optimizer's moments, replacing `path` in one step.
    pub fn save(&self, path: &Path, adam: &Adam) -> Result<()> {
        let Self { state, best, .. } = self;
        let floats = [&state.floats, &state.latents, &best.floats, &adam.first, &adam.second];
        let floats = floats.into_iter().flat_map(Values::values);
        let payload = floats.map(|values| bytemuck::cast_slice(values));
        let payload: Vec<&[u8]> = payload.chain(best.codes.values().map(Vec::as_slice)).collect();
        Journal::replace(path, &self.settings.header(), &self.looks, &payload)
    }

    /// Takes up what [`save`](Self::save) wrote with the same settings; the moments go to `adam`. Returns false where
    /// there is no such journal.
    pub fn restore(&mut self, path: &Path, adam: &mut Adam) -> Result<bool> {
        let Some((looks, payload)) = Journal::read::<Vec<Look>>(path, &self.settings.header())? else {
            return Ok(false);
        };
        let Self { state, best, .. } = self;
        let floats =
            [&mut state.floats, &mut state.latents, &mut best.floats, &mut adam.first, &mut adam.second];
        let floats = floats.into_iter().flat_map(Values::values_mut);
        let parts = floats.map(|values| bytemuck::cast_slice_mut(values));
        let parts: Vec<&mut [u8]> = parts.chain(best.codes.values_mut().map(Vec::as_mut_slice)).collect();
        if payload.len() != parts.iter().map(|part| part.len()).sum::<usize>() {
            return Err(damaged(path));
        }
        let mut payload = &payload[..];
        for part in parts {
            let (bytes, rest) = payload.split_at(part.len());
            part.copy_from_slice(bytes);
            payload = rest;
        }
        self.looks = looks;
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

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
            code_rate: Some(0.25),
            temperature: 1.0,
            norms: false,
            seed: 7,
        }
    }

    fn state(value: f32) -> State {
        let values = |name: &str| Values::from([(name.to_owned(), vec![value, 2.0])]);
        State { floats: values("a"), latents: values("c") }
    }

    fn stored(value: u8) -> Stored {
        let codes = BTreeMap::from([("c".to_owned(), vec![value])]);
        Stored { floats: state(f32::from(value)).floats, codes }
    }

    fn adam() -> Adam {
        let codes = Coordinate::Codes { name: "c".to_owned(), highest: 3.0 };
        Adam::new(vec![Coordinate::Plain("a".to_owned()), codes], &state(1.0))
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
        let rates = |step| settings.rates_of(step);
        assert_eq!(rates(0), Rates { floats: 0.5, codes: 0.25 });
        assert!(rates(9).floats.abs() < 1e-12 && rates(9).codes.abs() < 1e-12);
        assert!((rates(3).codes - 0.75 * 0.25).abs() < 1e-12, "a cosine");
    }

    #[test]
    fn the_best_look_is_kept_and_patience_ends() {
        let mut progress = TuningRun::new(settings(1000), state(0.0), stored(0));
        progress.look(Look { step: 0, loss: 1.0 }, |_| stored(0));
        progress.look(Look { step: 10, loss: 0.5 }, |_| stored(1));
        progress.look(Look { step: 20, loss: f64::NAN }, |_| stored(2));
        assert_eq!((progress.best_look().step, &progress.best), (10, &stored(1)));
        let mut step = 20;
        while !progress.is_over() {
            step += 10;
            progress.look(Look { step, loss: 0.6 }, |_| stored(3));
        }
        assert_eq!((step, &progress.best), (500 + 33 * 10, &stored(1)), "no less than half of the steps");
    }

    #[test]
    fn a_resumed_run_is_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let path = TuningRun::path(&home.path().join("out"));
        let fresh = || TuningRun::new(settings(50), state(1.0), stored(1));
        let (mut adam, mut run) = (adam(), fresh());
        run.look(Look { step: 0, loss: 0.1 + 0.2 }, |_| stored(1));
        adam.observe(&Values::from([("a".to_owned(), vec![0.3, 2.0]), ("c".to_owned(), vec![-0.1, 0.7])]));
        adam.apply(1, Rates { floats: 0.1, codes: 0.2 }, &mut run.state);
        run.look(Look { step: 10, loss: 1.0 / 3.0 }, |_| stored(4));
        run.look(Look { step: 20, loss: 0.2 }, |_| stored(5));
        let (mut back, mut moments) = (fresh(), self::adam());
        assert!(!back.restore(&path, &mut moments).unwrap());
        assert_eq!(back, fresh());
        run.save(&path, &adam).unwrap();
        assert!(back.restore(&path, &mut moments).unwrap());
        assert_eq!(back, run);
        assert_eq!((moments.first, moments.second), (adam.first, adam.second));
        let smaller = Stored { codes: BTreeMap::new(), ..stored(1) };
        let mut other = TuningRun::new(settings(50), state(1.0), smaller);
        assert!(other.restore(&path, &mut self::adam()).is_err(), "another model's values");
    }
}
