//! The sensitivity table: the predicted cost of each candidate of each layer, measured once, solved for any target. On disk
//! it is one JSON object.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::correction::Correction;
use super::scores::{LayerSensitivity, Score};
use crate::error::{Error, Result};
use crate::files::journal::{Header, MODEL};
use crate::files::{lfs_pointer, output_file};
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::Technique;

/// Weights of a matrix on which every candidate is tried at least. Of larger ones a part of the rows stands for the others,
/// one in so many at least: how the candidates' errors compare differs little from row to row.
pub(crate) const TRIED: usize = 1 << 16;
pub(crate) const MOST_SKIPPED: usize = 16;

/// Version of the format that is written and read. Up to 1, sequences were cut out of texts without BOS.
pub(crate) const VERSION: u32 = 2;

/// Settings of a measurement. Tables with different ones are not to be mixed.
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
    /// Number of sequences that sensitivities were measured on; all, in older tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity_samples: Option<usize>,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Seed of sequence choice and labels.
    pub seed: u64,
    /// A [`Method`], in words.
    pub method: String,
    /// Technique whose errors were scored: `rtn` or `search`.
    #[serde(default)]
    pub rounding: Technique,
    /// Type of scales and biases.
    pub dtype: FloatType,
    /// The candidates.
    pub candidates: Vec<Quant>,
}

impl Measurement {
    /// Returns the header of the journal.
    pub(super) fn header(&self) -> Header {
        let candidates: Vec<String> = self.candidates.iter().map(Quant::to_string).collect();
        Header::new("measurement")
            .with("the format's version", self.version)
            .with(MODEL, &self.model)
            .with("samples", self.samples)
            .with("sensitivity_samples", self.sensitivity_samples.unwrap_or(self.samples))
            .with("sequence_length", self.sequence_length)
            .with("seed", self.seed)
            .with("method", &self.method)
            .with("rounding", if self.rounding.is_searched() { "search or gptq" } else { "rtn" })
            .with("dtype", self.dtype)
            .with("candidates", candidates.join(","))
            .with("the text chosen", &self.text)
    }
}

const AGAIN: &str = "`mixbit analyze` writes whole tables: measure again";

/// A whole table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Settings of the measurement.
    pub measurement: Measurement,
    /// Scores, per layer.
    pub layers: Vec<LayerSensitivity>,
    /// Measured corrections of the scores' sums; older tables have none.
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
        let is_wrong = |score: &&Score| !score.kl.is_finite() || (!signed && score.kl < 0.0);
        for layer in &table.layers {
            if let Some(Score { quant, kl, .. }) = layer.scores.iter().find(is_wrong) {
                let message =
                    format!("has a predicted KL divergence of {kl} for {quant}, expected 0 or more");
                return Err(Error::key(path, &layer.path, message).hint(AGAIN));
            }
        }
        Ok(table)
    }

    /// Fails on what no measurement writes.
    fn validate(&self, path: &Path) -> Result<()> {
        let Measurement { version, method, .. } = &self.measurement;
        if *version != VERSION {
            return Err(Error::key(
                path,
                "measurement.version",
                format!("is {version}, this mixbit knows {VERSION}"),
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
        if let Some(wrong) = self.correction.impossible_value() {
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
            .hint(format!("use setting `dtype` {}, or analyze again", self.measurement.dtype)));
        }
        Ok(())
    }

    /// Writes the table, replacing `path` in one step.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::file(path, e.to_string()))?;
        output_file::write(path, &text)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::choose) fn measurement() -> Measurement {
        Measurement {
            version: VERSION,
            model: "m".to_owned(),
            text: "t".to_owned(),
            samples: 2,
            sensitivity_samples: None,
            sequence_length: 8,
            seed: 1,
            method: "fisher-diagonal".to_owned(),
            rounding: Technique::Rtn,
            dtype: FloatType::F16,
            candidates: vec![Quant::affine(4, 64)],
        }
    }

    pub(in crate::choose) fn layer(path: &str) -> LayerSensitivity {
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
    fn a_table_goes_with_one_model_and_dtype() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let table = Table {
            measurement: measurement(),
            layers: vec![layer("a"), layer("b")],
            correction: Correction::default(),
        };
        table.write(&out).unwrap();
        assert_eq!(Table::read(&out).unwrap(), table);
        assert!(table.check(&out, "m", FloatType::F16).is_ok());
        assert!(table.check(&out, "other", FloatType::F16).is_err());
        assert!(table.check(&out, "m", FloatType::Bf16).is_err());
    }

    #[test]
    fn table_of_an_unknown_method_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let measurement = Measurement { method: "fisher-directional".to_owned(), ..measurement() };
        Table { measurement, layers: vec![layer("a")], correction: Correction::default() }
            .write(&out)
            .unwrap();
        let error = Table::read(&out).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`measurement.method`: is `fisher-directional`, this mixbit knows"), "{text}");
        assert_eq!(error.hint_text(), Some(AGAIN));
    }

    #[test]
    fn table_of_sequences_without_bos_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let measurement = Measurement { version: 1, ..measurement() };
        Table { measurement, layers: vec![layer("a")], correction: Correction::default() }
            .write(&out)
            .unwrap();
        let error = Table::read(&out).unwrap_err();
        assert!(error.to_string().contains("`measurement.version`: is 1, this mixbit knows 2"), "{error}");
        assert_eq!(error.hint_text(), Some(AGAIN));
    }

    #[test]
    fn a_negative_divergence_is_named_by_its_row() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let bad = LayerSensitivity { scores: vec![Score::new(Quant::affine(4, 64), &[-0.5])], ..layer("b") };
        let layers = vec![layer("a"), bad];
        Table { measurement: measurement(), layers, correction: Correction::default() }.write(&out).unwrap();
        let error = Table::read(&out).unwrap_err();
        let expected = "key `b`: has a predicted KL divergence of -0.5 for 4:64, expected 0 or more";
        assert!(error.to_string().ends_with(expected), "{error}");
        assert_eq!(error.hint_text(), Some(AGAIN));
    }

    #[test]
    fn factors_of_layers_that_are_not_there_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("table.json");
        let mut table = Table {
            measurement: measurement(),
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
}
