//! Arguments of commands that describe and judge models.

use clap::{ArgGroup, Args};
use std::path::PathBuf;

use super::cache::Cache;
use super::command::{at_least_one, parse_size, sequence_length, whole_in};
use super::share::Hub;
use super::template::Template;
use crate::jobs::evaluate::WINDOWS_IN_BATCH;

/// JSON of `mixbit inspect`, which scripts may rely on.
const INSPECT_JSON: &str = "\
JSON:
  model_type     the config's; null for a single file
  parameters     values before any packing
  bpw_quantized  bits per weight of the linear layers, scales and biases included
  bpw_model      bits per parameter of the whole model
  bytes          {total, embeddings, codes, scales_biases, float}
  layers         [{path, shape, bits, group_size, mode, form, bytes}]; of a float layer
                 bits, group_size and mode are null; form is another tool's, or null
  tensors        of a single file: [{name, dtype, shape, bytes}]
  notes          decisions against the config's letter
  files          of a pack: [{name, bytes, sha256}]; null for a folder

A single file has no config. Where its shapes allow several settings of a quantized
layer, `settings` lists them; shape, bits and group_size, and the numbers that depend
on them, are null.";

/// `mixbit inspect`.
#[derive(Debug, Args)]
#[command(after_long_help = INSPECT_JSON)]
pub struct Inspect {
    /// Model folder, Hugging Face's or MLX's, pack, or name on the Hub, from which headers come and no weights; or a
    /// single .safetensors or .npz file
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// One line per layer: shape, bits, group size, bytes
    #[arg(long, conflicts_with = "json")]
    pub layers: bool,
    /// Draw it as an HTML file (of a model folder)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "layers"])]
    pub html: Option<PathBuf>,
    /// Replace the HTML file if it exists
    #[arg(long, requires = "html")]
    pub overwrite: bool,
}

/// `mixbit report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Model folder, pack, or name on the Hub; mixbit-report.json in it tells how it was made
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// The float model that it was made from, to answer the prompt beside it and to measure this one's distance from
    /// it; without --data a distance that was measured already is drawn
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// Text to measure the distance on, in any form that `mixbit eval --data` takes [default: the distance in
    /// mixbit-report.json; without one, the part of mixbit's own text that `quantize` holds out unless --no-eval is
    /// given]
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub data: Option<PathBuf>,
    /// Tokens per window of --data, as in `mixbit eval` [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "T", requires = "data", value_parser = sequence_length)]
    pub sequence_length: Option<u32>,
    /// Most tokens of --data to use (`mixbit eval --max-tokens`)
    #[arg(long, value_name = "N", requires = "data", value_parser = whole_in(3, u32::MAX))]
    pub max_data_tokens: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: Template,
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// Question to ask; without --reference the model answers alone
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Most tokens of an answer [default: 160]
    #[arg(long, value_name = "N", value_parser = whole_in(1, 100_000))]
    pub max_tokens: Option<u32>,
    /// Replace the file if it exists
    #[arg(long)]
    pub overwrite: bool,
}

/// JSON of `mixbit eval`, which scripts may rely on.
const EVAL_JSON: &str = "\
JSON (logarithms are natural, shares and probabilities lie between 0 and 1):
  tokens                  tokens predicted
  tokens_left_out         tokens of the text that fill no window
  perplexity              and perplexity_stderr
  sequence_length         as asked for
  tokens_per_second       tokens through the model per second
With --reference also:
  reference_perplexity    and reference_perplexity_stderr
  ln_perplexity_ratio     and ln_perplexity_ratio_stderr
  nll_correlation         of -ln p of the right token, -1 to 1
  kl_mean                 and kl_stderr, kl_median, kl_max, kl_min: KL divergence per token
  kl_percentiles          [[percent, kl], ...]
  probability_change_mean and probability_change_stderr, probability_change_rms
  same_top                and same_top_stderr: share of tokens whose likeliest is the reference's
With --stream, in place of sequence_length and tokens_left_out: context_size,
tokens_forgotten, cache_bytes.";

/// `mixbit eval`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("written").multiple(true).args(["json", "save_reference"]))]
#[command(after_long_help = EVAL_JSON)]
pub struct Eval {
    /// Model folder, Hugging Face's or MLX's, pack, or name on the Hub. Loading a pack does not compare its weights
    /// with their SHA-256: `mixbit check` does
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// Model to compare with, or a file that --save-reference wrote
    #[arg(long, value_name = "MODEL|FILE")]
    pub reference: Option<PathBuf>,
    /// Text to predict: plain (documents separated by lines `<|endoftext|>`), JSONL, or token ids in .npy or .npz
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: Template,
    /// Tokens per window; all but the first are predicted. Windows follow one another; tokens at the end that fill none
    /// are left out, unless there is no other window [default: 512, or the model's context if that is shorter]
    #[arg(long, value_name = "T", value_parser = sequence_length)]
    pub sequence_length: Option<u32>,
    /// Most tokens of the text to use
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_tokens: Option<usize>,
    /// Windows computed together
    #[arg(long, value_name = "B", default_value_t = WINDOWS_IN_BATCH, value_parser = whole_in(1, u32::MAX))]
    pub batch_size: u32,
    /// Keep the reference's log-probabilities (float16, the whole vocabulary), to score other models against them
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub save_reference: Option<PathBuf>,
    /// Write the figures as JSON too; `-` writes nothing else to stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Replace the files of --json and --save-reference if they exist
    #[arg(long, requires = "written")]
    pub overwrite: bool,
    /// Hidden states in memory; more go to a temporary file (in $TMPDIR)
    #[arg(long, value_name = "SIZE", default_value = "4MB", value_parser = parse_size)]
    pub activation_memory: u64,
    /// Read the text as one stream through the cache instead of window by window
    #[arg(long, conflicts_with_all = NOT_STREAMED)]
    pub stream: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: Cache,
}

/// Flags of `mixbit eval` that do not go with a stream.
const NOT_STREAMED: [&str; 5] =
    ["reference", "save_reference", "sequence_length", "batch_size", "activation_memory"];

/// `mixbit check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Model folder, Hugging Face's or MLX's, pack (all of whose files are compared with their SHA-256), or name on the
    /// Hub
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// The model that it was made from, to compare with
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// One JSON array on stdout: level, subject, message and hint of every finding
    #[arg(long)]
    pub json: bool,
}

/// JSON of `mixbit models`, which scripts may rely on.
const MODELS_JSON: &str = "\
JSON, a list of:
  model_type  the config's
  family      models are listed by it
  models      names of published models
  read_as     [model_type] of the decoder that these models have or hold
  note        what is done that the config does not say";

/// `mixbit models`.
#[derive(Debug, Args)]
#[command(after_long_help = MODELS_JSON)]
pub struct Models {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
