//! The sensitivity table: what each candidate of each layer is predicted to cost, measured once, solved for any target.
//!
//! On disk it is one JSON object. While it is measured, `FILE.partial` holds a header line and a line a finished layer,
//! so that an interrupted measurement can go on.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::correction::Correction;
use super::scores::LayerSensitivity;
use crate::error::{Error, ErrorKind, Result};
use crate::files::journal::{Setting, begun_otherwise, fingerprint};
use crate::files::{lfs_pointer, output_file};
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::Technique;
use crate::words::count;

/// Weights of a matrix on which every candidate is tried at least. Of larger ones a part of the rows stands for the others,
/// one in so many at least: how the candidates' errors compare differs little from row to row.
pub(crate) const TRIED: usize = 1 << 16;
pub(crate) const MOST_SKIPPED: usize = 16;

/// What a table was measured with. Tables with different ones are not to be mixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Version of this format.
    pub version: u32,
    /// Fingerprint of the model, see [`crate::models::source::SourceModel::fingerprint`].
    pub model: String,
    /// SHA-256 of the token sequences.
    pub text: String,
    /// Number of sequences of the text.
    pub samples: usize,
    /// How many of them sensitivities were measured on; all, in older tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_samples: Option<usize>,
    /// Tokens in each.
    pub sequence_length: usize,
    /// Seed of sequence choice and labels.
    pub seed: u64,
    /// A [`Method`], in words.
    pub method: String,
    /// Whose errors were scored: `rtn` or `search`.
    #[serde(default)]
    pub rounding: Technique,
    /// Type of scales and biases.
    pub dtype: FloatType,
    /// The candidates.
    pub candidates: Vec<Quant>,
}

impl Measurement {
    /// By name, for messages.
    fn settings(&self) -> Vec<Setting> {
        let candidates: Vec<String> = self.candidates.iter().map(Quant::to_string).collect();
        vec![
            ("the format's version", self.version.to_string()),
            ("the model", fingerprint(&self.model)),
            ("--samples", self.samples.to_string()),
            ("--sensitivity-samples", self.sensitivity_samples.unwrap_or(self.samples).to_string()),
            ("--sequence-length", self.sequence_length.to_string()),
            ("--seed", self.seed.to_string()),
            ("--method", self.method.clone()),
            ("--rounding", if self.rounding.is_searched() { "search or gptq" } else { "rtn" }.to_owned()),
            ("--dtype", self.dtype.to_string()),
            ("--candidates", candidates.join(",")),
            ("the text chosen", fingerprint(&self.text)),
        ]
    }
}

const AGAIN: &str = "`mixbit analyze` writes whole tables: measure again";

/// A whole table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// How it was measured.
    pub measurement: Measurement,
    /// One a layer.
    pub layers: Vec<LayerSensitivity>,
    /// What their sums are off by; older tables have none.
    #[serde(default, skip_serializing_if = "Correction::is_empty")]
    pub correction: Correction,
}

impl Table {
    /// Reads a finished table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        lfs_pointer::refuse(path, text.as_bytes())?;
        let table: Self = serde_json::from_str(&text).map_err(|e| {
            Error::file(path, format!("not a sensitivity table of this version of mixbit: {e}")).hint(AGAIN)
        })?;
        table.validate(path)?;
        let signed = table.measurement.method.starts_with("alignment");
        let finite = |layer: &LayerSensitivity| {
            layer.scores.iter().all(|score| score.kl.is_finite() && (signed || score.kl >= 0.0))
        };
        match table.layers.iter().find(|layer| !finite(layer)) {
            Some(layer) => Err(Error::key(
                path,
                &layer.path,
                "has a predicted KL divergence that is negative or no number",
            )),
            None => Ok(table),
        }
    }

    /// Fails on what no measurement writes.
    fn validate(&self, path: &Path) -> Result<()> {
        let Measurement { version, method, .. } = &self.measurement;
        if *version != 1 {
            return Err(Error::key(
                path,
                "measurement.version",
                format!("is {version}, this mixbit knows 1"),
            )
            .hint(AGAIN));
        }
        if method != "fisher-diagonal" && !method.starts_with("alignment at ") {
            return Err(Error::key(
                path,
                "measurement.method",
                format!("is `{method}`, this mixbit knows `fisher-diagonal` and `alignment`"),
            )
            .hint(AGAIN));
        }
        if self.layers.is_empty() {
            return Err(Error::file(path, "holds no layers").hint(AGAIN));
        }
        if let Some(wrong) = self.correction.wrong() {
            return Err(Error::key(path, "correction", wrong).hint(AGAIN));
        }
        let mut seen = BTreeSet::new();
        for layer in &self.layers {
            if !seen.insert(&layer.path) {
                return Err(Error::key(path, &layer.path, "is there twice").hint(AGAIN));
            }
            if !layer.is_possible() {
                let size = format!("has the impossible size {} x {}", layer.rows, layer.columns);
                return Err(Error::key(path, &layer.path, size).hint(AGAIN));
            }
            let quants: BTreeSet<Quant> = layer.scores.iter().map(|score| score.quant).collect();
            if quants.len() != layer.scores.len() {
                return Err(Error::key(path, &layer.path, "has a candidate twice").hint(AGAIN));
            }
        }
        match self.correction.layers().find(|layer| !seen.contains(layer)) {
            Some(layer) => {
                let unknown = format!("has factors for layer `{layer}`, which the table has no scores of");
                Err(Error::key(path, "correction", unknown).hint(AGAIN))
            }
            None => Ok(()),
        }
    }

    /// Fails unless the table was measured on the model with this fingerprint, for scales of this type.
    pub fn check(&self, path: &Path, model: &str, dtype: FloatType) -> Result<()> {
        if self.measurement.model != model {
            return Err(
                Error::file(path, "was measured on another model").hint("run `mixbit analyze` on this one")
            );
        }
        if self.measurement.dtype != dtype {
            return Err(Error::file(
                path,
                format!("was measured for scales in {}, not {dtype}", self.measurement.dtype),
            )
            .hint(format!("use --dtype {}, or analyze again", self.measurement.dtype)));
        }
        Ok(())
    }

    /// Writes it, replacing `path` in one step.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::file(path, e.to_string()))?;
        output_file::write(path, &text)
    }
}

/// A table in the making.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    /// Layers that an earlier run finished.
    pub finished: Vec<LayerSensitivity>,
}

impl Partial {
    /// Where it is kept while `out` is being made.
    pub fn path(out: &Path) -> PathBuf {
        let mut name = out.as_os_str().to_owned();
        name.push(".partial");
        PathBuf::from(name)
    }

    /// Whether an earlier run has finished layers of `out`.
    pub fn waits(out: &Path) -> bool {
        // The first line is the header.
        fs::read(Self::path(out)).is_ok_and(|text| text.split(|&byte| byte == b'\n').count() > 2)
    }

    /// What an interruption leaves: the hint, or nothing at all where no layer is finished.
    pub fn given_up(&self, error: Error) -> Error {
        match (error.kind(), self.finished.len()) {
            (_, 0) => {
                // It is in nobody's way: the next run starts it anew.
                let _ = fs::remove_file(&self.path);
                error
            }
            (ErrorKind::Interrupted, done) => {
                error.hint(format!("the same command with --resume goes on after {}", count(done, "layer")))
            }
            _ => error,
        }
    }

    /// Starts `out`.partial anew, or goes on with it if `resume` is set and it was made with the same measurement.
    pub fn open(out: &Path, measurement: &Measurement, resume: bool) -> Result<Self> {
        let path = Self::path(out);
        let finished = if resume && path.exists() { read_partial(&path, measurement)? } else { Vec::new() };
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut partial = Self { path, file, finished: Vec::new() };
        partial.line(measurement)?;
        for layer in finished {
            partial.line(&layer)?;
            partial.finished.push(layer);
        }
        Ok(partial)
    }

    /// Records a finished layer.
    pub fn add(&mut self, layer: LayerSensitivity) -> Result<()> {
        self.line(&layer)?;
        self.finished.push(layer);
        Ok(())
    }

    /// Writes the finished table to `out` and removes the partial one.
    pub fn finish(self, out: &Path, measurement: Measurement, correction: Correction) -> Result<Table> {
        let mut layers = self.finished;
        layers.sort_by(|a, b| a.path.cmp(&b.path));
        let table = Table { measurement, layers, correction };
        table.write(out)?;
        fs::remove_file(&self.path).map_err(|e| Error::io(&self.path, e))?;
        Ok(table)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(value).map_err(|e| Error::file(&self.path, e.to_string()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|e| Error::io(&self.path, e))
    }
}

/// The whole lines of a partial table; a last one that was cut off is measured again.
fn read_partial(path: &Path, measurement: &Measurement) -> Result<Vec<LayerSensitivity>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let header: Option<Measurement> = lines.next().and_then(|line| serde_json::from_str(line).ok());
    let Some(header) = header else {
        return Err(Error::file(path, "does not begin like a measurement").hint(output_file::ANEW));
    };
    if header != *measurement {
        return Err(begun_otherwise(path, &header.settings(), &measurement.settings()));
    }
    lines
        .map(|line| serde_json::from_str(line).map_err(|e| Error::file(path, format!("damaged: {e}"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose::scores::Score;

    fn measurement(seed: u64) -> Measurement {
        Measurement {
            version: 1,
            model: "m".to_owned(),
            text: "t".to_owned(),
            samples: 2,
            sensitivity_samples: None,
            sequence_length: 8,
            seed,
            method: "fisher-diagonal".to_owned(),
            rounding: Technique::Rtn,
            dtype: FloatType::F16,
            candidates: vec![Quant::affine(4, 64)],
        }
    }

    fn layer(path: &str) -> LayerSensitivity {
        let scores = vec![Score::new(Quant::affine(4, 64), &[0.1, 0.3])];
        LayerSensitivity { path: path.to_owned(), rows: 2, columns: 64, scores }
    }

    #[test]
    fn standard_error_of_equal_parts() {
        let score = Score::new(Quant::affine(4, 64), &[1.0, 3.0]);
        assert!((score.kl - 2.0).abs() < 1e-12 && (score.stderr - 1.0).abs() < 1e-12);
        assert_eq!(Score::new(Quant::affine(4, 64), &[1.0]).stderr.to_bits(), 0f64.to_bits());
    }

    #[test]
    fn an_interrupted_table_goes_on_and_only_with_the_same_settings() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let mut partial = Partial::open(&out, &measurement(1), false).unwrap();
        partial.add(layer("b")).unwrap();
        partial.file.write_all(b"{\"path\": \"cut o").unwrap();
        drop(partial);
        let error = Partial::open(&out, &measurement(2), true).unwrap_err().to_string();
        assert!(error.ends_with("was begun with other settings: --seed was 1, now it is 2"), "{error}");
        let mut partial = Partial::open(&out, &measurement(1), true).unwrap();
        assert_eq!(partial.finished, [layer("b")]);
        partial.add(layer("a")).unwrap();
        let table = partial.finish(&out, measurement(1), Correction::default()).unwrap();
        assert_eq!(Table::read(&out).unwrap(), table);
        assert_eq!(table.layers, [layer("a"), layer("b")]);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert!(table.check(&out, "m", FloatType::F16).is_ok());
        assert!(table.check(&out, "other", FloatType::F16).is_err());
        assert!(table.check(&out, "m", FloatType::Bf16).is_err());
    }

    #[test]
    fn table_of_an_unknown_method_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let measurement = Measurement { method: "fisher-directional".to_owned(), ..measurement(1) };
        Table { measurement, layers: vec![layer("a")], correction: Correction::default() }
            .write(&out)
            .unwrap();
        let error = Table::read(&out).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`measurement.method`: is `fisher-directional`, this mixbit knows"), "{text}");
        assert_eq!(error.hint_text(), Some(AGAIN));
    }

    #[test]
    fn factors_of_layers_that_are_not_there_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let mut table = Table {
            measurement: measurement(1),
            layers: vec![layer("a")],
            correction: Correction {
                gptq: [("a".to_owned(), [(4, 0.5)].into())].into(),
                ..Correction::default()
            },
        };
        table.write(&out).unwrap();
        assert_eq!(Table::read(&out).unwrap(), table);
        table.correction.search.insert("b".to_owned(), [(4, 0.5)].into());
        table.write(&out).unwrap();
        let error = Table::read(&out).unwrap_err().to_string();
        assert!(error.contains("layer `b`, which the table has no scores of"), "{error}");
    }

    #[test]
    fn an_interruption_leaves_what_is_worth_going_on_with() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("t.json");
        let mut partial = Partial::open(&out, &measurement(1), false).unwrap();
        assert!(!Partial::waits(&out));
        assert!(partial.given_up(Error::interrupted()).hint_text().is_none());
        assert!(!Partial::path(&out).exists());
        partial = Partial::open(&out, &measurement(1), false).unwrap();
        partial.add(layer("a")).unwrap();
        let error = partial.given_up(Error::interrupted());
        assert!(error.hint_text().is_some_and(|hint| hint.ends_with("--resume goes on after 1 layer")));
        assert!(Partial::waits(&out));
    }
}
