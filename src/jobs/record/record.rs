//! The record of a quantization: its parts, reading and writing.

use super::gptq_stats::GptqStats;
use serde::{Deserialize, Deserializer, Serialize};

use crate::choose::allocate::CurvePoint;
use crate::choose::correction::Correction;
use crate::choose::scores::LayerSensitivity;
use crate::choose::table::Measurement;
use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::jobs::evaluation::{Histogram, Summary};
use crate::models::inventory::ClassBytes;
use crate::models::source::SourceModel;
use crate::numerics::rounding::Technique;

/// Name of the record in a model folder.
pub const FILE: &str = crate::files::names::RECORD;

/// Version of the format that is written and read.
pub const VERSION: u32 = 1;

/// Size that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Most bits per weight of the linear layers.
    Bpw(f64),
    /// Most bytes of all tensors.
    Bytes(u64),
    /// No limit: bits were fixed by hand or recipe.
    Fixed,
}

/// Record of a quantization: settings, sizes, and measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format.
    pub version: u32,
    /// Version of mixbit.
    pub mixbit: String,
    /// Version of MLX, where anything was computed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlx: Option<String>,
    /// Name of the float model.
    pub base_model: String,
    /// Size that was asked for.
    pub target: Wanted,
    /// The recipe, if there was one.
    pub recipe: Option<String>,
    /// Dtype of scales, biases and float tensors.
    pub dtype: String,
    /// Rounding technique.
    pub rounding: String,
    /// Bits per weight of the linear layers.
    pub bpw_quantized: f64,
    /// Bits per parameter of the whole model.
    pub bpw_model: f64,
    /// Fingerprint of the model's tensors; older records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Bytes of the float model.
    pub bytes_before: ClassBytes,
    /// Bytes of the quantized model.
    pub bytes_after: ClassBytes,
    /// Predicted KL divergence per token, in nats.
    pub predicted_kl: Option<f64>,
    /// Settings of the measurement of sensitivities.
    pub measurement: Option<Measurement>,
    /// Predicted cost of every candidate of every layer.
    #[serde(default, deserialize_with = "or_none")]
    pub sensitivities: Vec<LayerSensitivity>,
    /// Correction of the sums of sensitivities; the curve and the prediction include it.
    #[serde(default)]
    pub correction: Correction,
    /// Size against predicted cost over the whole range.
    #[serde(default, deserialize_with = "or_none")]
    pub curve: Vec<CurvePoint>,
    /// Rows and experts that error feedback did not help, where weights were rounded with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<GptqStats>,
    /// Moves of bits between layers after rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement: Option<Refinement>,
    /// Fine-tuning after rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// Measurement of the result.
    pub evaluation: Option<Evaluation>,
}

/// Rounds of moving bits between layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refinement {
    /// Name of the text that told whether a round helped.
    pub text: String,
    /// Number of windows of that text.
    pub windows: usize,
    /// Rounds, in order.
    pub rounds: Vec<RefinementRound>,
}

/// One round of moving bits between layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinementRound {
    /// Layers whose setting changed; 0 where nothing was predicted to pay.
    pub swaps: usize,
    /// KL divergence per token before the round, in nats.
    pub kl_before: f64,
    /// KL divergence per token after the round, in nats.
    pub kl_after: Option<f64>,
    /// Standard error of the difference.
    pub stderr: Option<f64>,
    /// True if the round was kept: the KL divergence fell by more than the standard error.
    pub kept: bool,
}

/// Fine-tuning of quantized layers to the float model's logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// Steps asked for.
    pub steps: usize,
    /// Steps taken; fewer where nothing improved any more.
    pub taken: usize,
    /// The step after which values were kept; 0 where none was better than the start.
    pub kept: usize,
    /// Length of the first step, relative to the scales.
    pub rate: f64,
    /// Temperature at which the models were compared.
    pub temperature: f64,
    /// True if norms were tuned too.
    pub norms: bool,
    /// True if scales and biases were tuned: only affine layers have free ones.
    #[serde(default = "scales_of_older_records")]
    pub scales: bool,
    /// Codes, if they were tuned too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<LearnedCodes>,
    /// Codes that were tuned block by block before these steps, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<LearnedBlocks>,
    /// Name of the text that told which step was best.
    pub text: String,
    /// Number of windows of that text.
    pub windows: usize,
    /// KL divergence per token on that text before the first step, in nats.
    pub kl_before: f64,
    /// KL divergence per token on that text with the values that were kept, in nats.
    pub kl_after: f64,
}

/// Returns `scales` of records that do not have it.
const fn scales_of_older_records() -> bool {
    true
}

/// Tuning of codes block by block, each block to the float block's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearnedBlocks {
    /// Most steps of each block.
    pub steps: usize,
    /// Codes that were tuned.
    pub codes: LearnedCodes,
    /// KL divergence per token before, in nats, on the windows of the distillation.
    pub kl_before: f64,
    /// KL divergence per token after it.
    pub kl_after: f64,
}

/// Tuning of codes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearnedCodes {
    /// Length of the first step, in steps of one code.
    pub rate: f64,
    /// Number of codes that learned.
    pub count: u64,
    /// Number of those that differ from what rounding gave.
    pub changed: u64,
}

impl Distillation {
    /// Names the kinds of tensors that were tuned: `codes, scales and biases`.
    pub fn what(&self) -> String {
        let codes = self.codes.map(|_| "codes");
        let [scales, biases] = ["scales", "biases"].map(|name| self.scales.then_some(name));
        let norms = self.norms.then_some("norms");
        let tuned: Vec<&str> = [codes, scales, biases, norms].into_iter().flatten().collect();
        match tuned.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
            _ => tuned.concat(),
        }
    }
}

impl LearnedBlocks {
    /// True if the result was kept: it is closer to the float model than the start.
    pub fn is_kept(&self) -> bool {
        self.kl_after < self.kl_before
    }

    /// Describes the outcome: `4.11 % of the codes changed`.
    pub fn outcome(&self) -> String {
        let kept = if self.is_kept() { "" } else { ", which was no better than the start and not kept" };
        format!("{}{kept}", self.codes.changes())
    }
}

impl LearnedCodes {
    /// Describes the change: `2.31 % of the codes changed`, or `6 of 266240 codes changed` where they are few.
    pub fn changes(&self) -> String {
        let share = 100.0 * self.changed as f64 / self.count.max(1) as f64;
        if share < 0.01 && self.changed > 0 {
            return format!("{} of {} codes changed", self.changed, self.count);
        }
        format!("{share:.2} % of the codes changed")
    }
}

/// Measurement of a model on a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Name of the text.
    pub text: String,
    /// Number of windows of the text.
    pub windows: usize,
    /// Tokens per window.
    pub sequence_length: usize,
    /// Perplexity and divergence.
    #[serde(flatten)]
    pub summary: Summary,
    /// Distribution of the KL divergences of the tokens.
    pub kl_histogram: Histogram,
}

/// Reads a list, empty where the value is null.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

impl Record {
    /// True if the record is about the tensors of `source`, or has no fingerprint.
    pub fn is_about(&self, source: &SourceModel) -> bool {
        self.weights.as_ref().is_none_or(|weights| *weights == source.weights_fingerprint())
    }

    /// Returns the rounding that the curve and the prediction are for; `None` where nothing was predicted.
    pub(crate) fn predicted_rounding(&self) -> Option<Technique> {
        let scored = self.measurement.as_ref()?.rounding;
        let is_gptq = self.rounding == Technique::Gptq.to_string();
        let technique = if is_gptq { Technique::Gptq } else { scored };
        Some(self.correction.predicted_rounding(technique, scored))
    }

    /// True if fine-tuning, which no prediction includes, brought the model closer.
    pub(crate) fn is_fine_tuned(&self) -> bool {
        let is_tuned =
            |done: &Distillation| done.kept > 0 || done.blocks.as_ref().is_some_and(LearnedBlocks::is_kept);
        self.distillation.as_ref().is_some_and(is_tuned)
    }

    /// Reads the record among a model's `files`; `None` where there is none.
    pub fn read(files: &ModelFiles) -> Result<Option<Self>> {
        if !files.has(FILE) {
            return Ok(None);
        }
        let path = files.path_of(FILE);
        let text = files.read_text(FILE)?;
        let bad = |what: String| {
            Error::file(&path, format!("not a report of this version of mixbit: {what}"))
                .hint("remove it, or quantize again")
        };
        let record: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if record.version != VERSION {
            return Err(bad(format!("its format is version {}, not {VERSION}", record.version)));
        }
        match record.impossible() {
            Some(key) => Err(bad(format!("`{key}` is a size that no model has"))),
            None => Ok(Some(record)),
        }
    }

    /// Returns the key of a size that no model has, which would overflow where sizes are added up.
    fn impossible(&self) -> Option<&str> {
        const MOST_BYTES: u64 = 1 << 60;
        let possible = |bytes: &ClassBytes| {
            let ClassBytes { total, embeddings, codes, scales_biases, float } = *bytes;
            [total, embeddings, codes, scales_biases, float].into_iter().all(|bytes| bytes <= MOST_BYTES)
        };
        let sums = |counts: &[usize]| counts.iter().try_fold(0_usize, |sum, &n| sum.checked_add(n)).is_some();
        let layer = self.sensitivities.iter().find(|layer| !layer.is_possible());
        let evaluation = self.evaluation.as_ref();
        if !possible(&self.bytes_before) {
            return Some("bytes_before");
        }
        if !possible(&self.bytes_after) {
            return Some("bytes_after");
        }
        if evaluation.is_some_and(|evaluation| !sums(&evaluation.kl_histogram.counts)) {
            return Some("kl_histogram");
        }
        layer.map(|layer| layer.path.as_str())
    }

    /// Returns the file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::input(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Result<Option<Record>> {
        let bytes = json!({"total": 4, "embeddings": 1, "codes": 1, "scales_biases": 1, "float": 1});
        let layer = json!({"path": "q_proj", "rows": 64, "columns": 64, "scores": []});
        let mut record = json!({"version": 1, "mixbit": "0", "base_model": "x", "target": "fixed", "recipe": null,
            "dtype": "float16", "rounding": "rtn", "bpw_quantized": 4.5, "bpw_model": 5.5, "bytes_before": bytes,
            "bytes_after": bytes, "predicted_kl": null, "measurement": null, "sensitivities": [layer],
            "evaluation": null});
        change(&mut record);
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE), record.to_string()).unwrap();
        Record::read(&ModelFiles::open(home.path()).unwrap())
    }

    #[test]
    fn what_was_tuned_is_named() {
        let what = |more: Value| {
            let mut record = json!({"steps": 9, "taken": 9, "kept": 9, "rate": 0.1, "temperature": 1.0, "norms": false,
                "text": "x", "windows": 1, "kl_before": 0.2, "kl_after": 0.1});
            record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<Distillation>(record).unwrap().what()
        };
        let codes = json!({"rate": 0.1, "count": 9, "changed": 1});
        assert_eq!(what(json!({})), "scales and biases", "an older record");
        assert_eq!(what(json!({"norms": true})), "scales, biases and norms");
        assert_eq!(what(json!({"codes": codes})), "codes, scales and biases");
        assert_eq!(what(json!({"codes": codes, "scales": false})), "codes");
        assert_eq!(what(json!({"codes": codes, "scales": false, "norms": true})), "codes and norms");
    }

    #[test]
    fn few_changed_codes_are_counted() {
        let changes = |changed: u64| LearnedCodes { rate: 0.1, count: 200_000, changed }.changes();
        assert_eq!(changes(0), "0.00 % of the codes changed");
        assert_eq!(changes(6), "6 of 200000 codes changed");
        assert_eq!(changes(4_620), "2.31 % of the codes changed");
    }

    #[test]
    fn fine_tuning_counts_where_it_was_kept() {
        let distillation = json!({"steps": 9, "taken": 9, "kept": 0, "rate": 0.1, "temperature": 1.0, "norms": false,
            "text": "x", "windows": 1, "kl_before": 0.2, "kl_after": 0.2});
        let blocks = |kl_after: f64| {
            let codes = json!({"rate": 0.1, "count": 9, "changed": 1});
            json!({"steps": 9, "codes": codes, "kl_before": 0.2, "kl_after": kl_after})
        };
        let is_tuned = |change: &dyn Fn(&mut Value)| {
            let record = read(|record| {
                record["distillation"] = distillation.clone();
                change(&mut record["distillation"]);
            });
            record.unwrap().unwrap().is_fine_tuned()
        };
        assert!(!is_tuned(&|_| ()));
        assert!(is_tuned(&|done| done["kept"] = json!(3)));
        assert!(is_tuned(&|done| done["blocks"] = blocks(0.1)));
        assert!(!is_tuned(&|done| done["blocks"] = blocks(0.2)));
        assert!(!read(|_| ()).unwrap().unwrap().is_fine_tuned());
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(read(|_| ()).unwrap().is_some());
        let refused = |change: fn(&mut Value), key: &str| {
            let error = read(change).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains(key), "{error}");
        };
        refused(|record| record["bytes_before"]["float"] = json!(u64::MAX), "`bytes_before` is a size");
        refused(|record| record["bytes_after"]["total"] = json!(u64::MAX), "`bytes_after` is a size");
        refused(|record| record["sensitivities"][0]["rows"] = json!(u64::MAX), "`q_proj` is a size");
    }
}
