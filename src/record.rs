//! `mixbit-report.json`: how a model was made, what it was predicted to cost and what was measured. Written beside the
//! weights by `mixbit quantize`, drawn by `mixbit report`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::allocate::CurvePoint;
use crate::checkpoint::SourceModel;
use crate::correction::Correction;
use crate::error::{Error, Result};
use crate::evaluation::{Histogram, Summary};
use crate::inventory::ClassBytes;
use crate::model_files::ModelFiles;
use crate::plural::count;
use crate::rounding::FEW_TOKENS;
use crate::sensitivity::{LayerSensitivity, Measurement};

/// Its name in a model folder.
pub const FILE: &str = "mixbit-report.json";

/// The format that is written and read.
pub const VERSION: u32 = 1;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Bits a weight of the linear layers at most.
    Bpw(f64),
    /// Bytes of all tensors at most.
    Bytes(u64),
    /// What was fixed by hand or recipe.
    Fixed,
}

/// How a model was made.
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
    /// What was asked for.
    pub target: Wanted,
    /// The recipe, if there was one.
    pub recipe: Option<String>,
    /// Dtype of scales, biases and what is float.
    pub dtype: String,
    /// How weights were rounded.
    pub rounding: String,
    /// Bits a weight of the linear layers.
    pub bpw_quantized: f64,
    /// Bits a parameter of the whole model.
    pub bpw_model: f64,
    /// Fingerprint of the tensors that it is about; older records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Bytes of the float model, as it was.
    pub bytes_before: ClassBytes,
    /// Bytes now.
    pub bytes_after: ClassBytes,
    /// Predicted KL divergence per token, in nats.
    pub predicted_kl: Option<f64>,
    /// How sensitivities were measured.
    pub measurement: Option<Measurement>,
    /// What every candidate of every layer is predicted to cost, rounded as said above.
    #[serde(default, deserialize_with = "or_none")]
    pub sensitivities: Vec<LayerSensitivity>,
    /// What their sums are off by; it is in the curve and the prediction already.
    #[serde(default)]
    pub correction: Correction,
    /// Size against predicted cost over the whole range.
    #[serde(default, deserialize_with = "or_none")]
    pub curve: Vec<CurvePoint>,
    /// How error feedback did, where weights were rounded with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,
    /// How bits were moved between layers after rounding, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement: Option<Refinement>,
    /// How it was fine-tuned after rounding, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// What was measured.
    pub evaluation: Option<Evaluation>,
}

/// Where error feedback (GPTQ) was no better than scale search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    /// Rows of all layers that were rounded with it.
    pub rows: usize,
    /// Of those the rows that are as scale search left them, by layer; layers without any are not listed.
    pub searched_rows: BTreeMap<String, usize>,
    /// How many experts each MLP has that was rounded with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub experts: BTreeMap<String, usize>,
    /// Those to which too few tokens came for it, by layer: all their rows are as scale search left them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub few_tokens: BTreeMap<String, Vec<usize>>,
}

impl Feedback {
    /// Names of layers that a sentence has room for.
    const FEW: usize = 4;

    /// Counts the rows of the layer at `path`.
    pub fn add(&mut self, path: &str, rows: usize, searched: usize) {
        self.rows += rows;
        if searched > 0 {
            self.searched_rows.insert(path.to_owned(), searched);
        }
    }

    /// Counts the `experts` whose matrices the layer at `path` holds, and those with too few tokens.
    pub fn add_experts(&mut self, path: &str, experts: usize, few_tokens: &[usize]) {
        if experts > 0 {
            self.experts.insert(mlp(path).to_owned(), experts);
        }
        if !few_tokens.is_empty() {
            self.few_tokens.insert(path.to_owned(), few_tokens.to_vec());
        }
    }

    /// What there is to say.
    pub fn sentences(&self) -> impl Iterator<Item = String> {
        [self.sentence(), self.few_tokens_sentence()].into_iter().flatten()
    }

    /// `2 of 640 rows in 1 layer are as scale search left them (model.layers.0.self_attn.q_proj)`; nothing where there are
    /// none.
    fn sentence(&self) -> Option<String> {
        let (layers, rows) = (self.searched_rows.len(), self.searched_rows.values().sum::<usize>());
        let names: Vec<&str> = self.searched_rows.keys().map(String::as_str).collect();
        let names = if layers <= Self::FEW { format!(" ({})", names.join(", ")) } else { String::new() };
        (rows > 0).then(|| {
            format!(
                "{rows} of {} in {} are as scale search left them{}",
                count(self.rows, "row"),
                count(self.searched_rows.len(), "layer"),
                names
            )
        })
    }

    /// `fewer than 32 tokens came to 3 of 16 experts, in model.layers.1.mlp.switch_mlp (0, 7, 12): scale search rounded
    /// them`; nothing where there are none. Names have room for a few MLPs, else the record has them.
    fn few_tokens_sentence(&self) -> Option<String> {
        const ROOM: usize = 4;
        let mut mlps: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (path, experts) in &self.few_tokens {
            mlps.entry(mlp(path)).or_default().extend(experts);
        }
        let experts = mlps.values().map(BTreeSet::len).sum::<usize>();
        let named = mlps.iter().map(|(mlp, experts)| {
            let numbers: Vec<String> = experts.iter().map(ToString::to_string).collect();
            format!("{mlp} ({})", numbers.join(", "))
        });
        let place = if mlps.len() <= ROOM {
            named.collect::<Vec<_>>().join(", ")
        } else {
            format!("{} (feedback.few_tokens of {FILE} names them)", count(mlps.len(), "block"))
        };
        (experts > 0).then(|| {
            format!(
                "fewer than {FEW_TOKENS} tokens came to {experts} of {}, in {place}: scale search rounded them",
                count(self.experts.values().sum::<usize>(), "expert")
            )
        })
    }
}

/// The path of the MLP that a layer is in.
fn mlp(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(mlp, _)| mlp)
}

/// Rounds of moving bits between layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refinement {
    /// What was looked at to tell whether a round helped.
    pub text: String,
    /// Windows of it.
    pub windows: usize,
    /// The rounds, in order.
    pub rounds: Vec<RefinementRound>,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinementRound {
    /// Layers whose setting changed; 0 where nothing was predicted to pay.
    pub swaps: usize,
    /// KL divergence per token before, in nats.
    pub kl_before: f64,
    /// The same after it.
    pub kl_after: Option<f64>,
    /// Standard error of the difference.
    pub stderr: Option<f64>,
    /// Whether it was kept: the KL divergence fell by more than that.
    pub kept: bool,
}

/// Fine-tuning of scales and biases to the float model's logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// Steps asked for.
    pub steps: usize,
    /// Steps taken; fewer where nothing improved any more.
    pub taken: usize,
    /// The step after which values were kept; 0 where none was better than the start.
    pub kept: usize,
    /// How far the first step went, relative to the scales.
    pub rate: f64,
    /// Temperature at which the models were compared.
    pub temperature: f64,
    /// Whether norms were tuned too.
    pub norms: bool,
    /// What was looked at to tell which step was best.
    pub text: String,
    /// Windows of it.
    pub windows: usize,
    /// KL divergence per token there before the first step, in nats.
    pub kl_before: f64,
    /// The same with the values that were kept.
    pub kl_after: f64,
}

/// What was measured, and on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Which text.
    pub text: String,
    /// Windows of it.
    pub windows: usize,
    /// Tokens in each.
    pub sequence_length: usize,
    /// The figures.
    #[serde(flatten)]
    pub summary: Summary,
    /// How the KL divergences of the tokens are distributed.
    pub kl_histogram: Histogram,
}

/// What is null counts as empty.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

impl Record {
    /// Whether it is about the tensors of `source`, as far as it says.
    pub fn is_about(&self, source: &SourceModel) -> bool {
        self.weights.as_ref().is_none_or(|weights| *weights == source.weights_fingerprint())
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
        Ok(Some(record))
    }

    /// As it is written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::input(e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_layers_are_named_and_many_are_counted() {
        let mut feedback = Feedback::default();
        feedback.add("a", 10, 0);
        assert_eq!(feedback.sentence(), None);
        feedback.add("b", 10, 3);
        let said = feedback.sentence().unwrap();
        assert_eq!(said, "3 of 20 rows in 1 layer are as scale search left them (b)");
        (0..4).for_each(|n| feedback.add(&n.to_string(), 5, 1));
        assert_eq!(feedback.sentence().unwrap(), "7 of 40 rows in 5 layers are as scale search left them");
        assert_eq!(feedback.few_tokens_sentence(), None);
        feedback.add_experts("q_proj", 0, &[]);
        feedback.add_experts("mlp.up_proj", 16, &[7, 0]);
        feedback.add_experts("mlp.down_proj", 16, &[3]);
        let said = feedback.few_tokens_sentence().unwrap();
        assert_eq!(
            said,
            "fewer than 32 tokens came to 3 of 16 experts, in mlp (0, 3, 7): scale search rounded them"
        );
    }
}
