//! Command-line arguments: clap structs, no logic.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::candidate::Mode;
use crate::checkpoint::Dtype;
use crate::weights::Container;

/// Turn Hugging Face checkpoints into MLX models of a chosen size and see what that cost.
#[derive(Debug, Parser)]
#[command(name = "mixbit", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// No progress bars and notes on stderr.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert a checkpoint to MLX, as float
    Convert(Convert),
    /// Make a mixed-precision model of a chosen size
    Quantize(Quantize),
    /// Measure how much each layer's rounding costs, once for all sizes
    Analyze(Analyze),
    /// Show size against predicted cost over the whole range of a table
    Curve(Curve),
    /// Turn a quantized model back into a float one
    Dequantize(Dequantize),
    /// Show what is in a model: sizes and the bits of every layer
    Inspect(Inspect),
    /// Generate text
    Run(Run),
    /// Write the logits of a token sequence, to compare with other implementations
    Logits(Logits),
}

/// Float element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FloatDtype {
    Float16,
    Bfloat16,
    Float32,
}

impl From<FloatDtype> for Dtype {
    fn from(dtype: FloatDtype) -> Self {
        match dtype {
            FloatDtype::Float16 => Self::F16,
            FloatDtype::Bfloat16 => Self::BF16,
            FloatDtype::Float32 => Self::F32,
        }
    }
}

/// Container of the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// model.safetensors, or shards with an index
    #[default]
    Safetensors,
    /// weights.npz, readable by mx.load and numpy
    Npz,
}

/// Where the output goes and how.
#[derive(Debug, Args)]
pub struct Output {
    /// Folder to write
    #[arg(long, alias = "out", value_name = "DIR")]
    pub mlx_path: PathBuf,
    /// Container of the weights
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Largest size of one safetensors file, such as 5GB or 500MB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    pub max_shard_size: u64,
    /// Replace the output folder if it exists
    #[arg(long)]
    pub overwrite: bool,
}

impl Output {
    /// The files to write.
    pub fn container(&self) -> Container {
        match self.format {
            Format::Safetensors => Container::Safetensors { max_shard_size: self.max_shard_size },
            Format::Npz => Container::Npz,
        }
    }
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// `mixbit convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Model folder to read
    #[arg(long, alias = "model", value_name = "DIR")]
    pub hf_path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    /// Element type to write [default: the checkpoint's own]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// Text that sensitivities are measured on.
#[derive(Debug, Args)]
pub struct Calibration {
    /// Plain UTF-8 text; documents may be separated by lines `<|endoftext|>` [default: a text that mixbit carries]
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Sequences to measure on
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub samples: u32,
    /// Tokens in a sequence
    #[arg(long, value_name = "T", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub sequence_length: u32,
    /// Seed of sequence choice and label sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// How large the result may be: a target, or the same setting for every layer.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Size {
    /// Average bits a weight of the linear layers, scales and biases included; never exceeded
    #[arg(long, value_name = "BITS", allow_negative_numbers = true, conflicts_with_all = ["target_size", "bits", "mode"])]
    pub target_bpw: Option<f64>,
    /// Bytes of all tensors, such as 800MB; never exceeded
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with_all = ["bits", "mode"])]
    pub target_size: Option<u64>,
    /// The same bits for every layer, or bits:group; nothing is measured
    #[arg(long, value_name = "BITS[:GROUP]")]
    pub bits: Option<String>,
    /// How codes become numbers [default: affine]; mxfp4, mxfp8 and nvfp4 have one setting each and need no --bits
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
}

/// `mixbit analyze`.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Model folder to measure
    #[arg(long, alias = "hf-path", value_name = "DIR")]
    pub model: PathBuf,
    /// Table to write
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,
    /// Candidates to measure, such as "3,4,6 x 64,128" [default: 2,3,4,5,6,8 x 32,64,128]
    #[arg(long, value_name = "LIST")]
    pub candidates: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub calibration: Calibration,
    /// Element type of scales and biases
    #[arg(long, value_enum, default_value = "float16")]
    pub dtype: FloatDtype,
    /// Continue an interrupted measurement after its last finished block
    #[arg(long)]
    pub resume: bool,
    /// Replace the table if it exists
    #[arg(long)]
    pub overwrite: bool,
}

/// `mixbit curve`.
#[derive(Debug, Args)]
pub struct Curve {
    /// Table that `mixbit analyze` wrote
    pub table: PathBuf,
    /// Comma-separated values instead of a table
    #[arg(long)]
    pub csv: bool,
}

/// `mixbit quantize`.
#[derive(Debug, Args)]
pub struct Quantize {
    /// Model folder to read
    #[arg(long, alias = "model", value_name = "DIR")]
    pub hf_path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub size: Size,
    /// With --bits, weights that share a scale: 32, 64 or 128 [default: 64, or what the mode has]
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["target_bpw", "target_size"])]
    pub group_size: Option<u32>,
    /// What a layer may become: bits x group sizes, such as "3,4,6 x 64,128", and `+ keep` for float; or settings,
    /// such as "nvfp4,4:64,keep"
    /// [default: 2,3,4,5,6,8 x 32,64,128 + keep]
    #[arg(long, value_name = "LIST", conflicts_with_all = ["bits", "mode"])]
    pub candidates: Option<String>,
    /// Fix layers: GLOB=bits[:group[:mode]] or GLOB=float; may be repeated, the last that matches wins
    #[arg(long, value_name = "RULE")]
    pub layer: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub calibration: Calibration,
    /// Use a table that `mixbit analyze` wrote instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = ["calibration", "bits", "mode"])]
    pub sensitivities: Option<PathBuf>,
    /// Element type of what stays float and of scales and biases
    #[arg(long, value_enum, default_value = "float16")]
    pub dtype: FloatDtype,
    /// Print plan and bit map, write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `mixbit dequantize`.
#[derive(Debug, Args)]
pub struct Dequantize {
    /// Model folder to read, with quantized layers
    #[arg(long, alias = "model", value_name = "DIR")]
    pub hf_path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    /// Element type to write [default: the model's own]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// What scripts may rely on.
const INSPECT_JSON: &str = "\
JSON:
  model_type     the config's; null for a single file
  parameters     values before any packing
  bpw_quantized  bits a weight of the linear layers, scales and biases included
  bpw_model      bits a parameter of everything
  bytes          {total, embeddings, codes, scales_biases, float}
  layers         [{path, shape, bits, group_size, mode, bytes}]; of a float layer bits,
                 group_size and mode are null
  tensors        of a single file: [{name, dtype, shape, bytes}]
  notes          what was decided against the config's letter

A single file has no config. Where its shapes allow several settings of a quantized
layer, `settings` lists them; shape, bits and group_size, and the numbers that depend
on them, are null.";

/// `mixbit inspect`.
#[derive(Debug, Args)]
#[command(after_long_help = INSPECT_JSON)]
pub struct Inspect {
    /// Model folder, Hugging Face or MLX, or a single .safetensors or .npz file
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// One line a layer: shape, bits, group size, bytes
    #[arg(long, conflicts_with = "json")]
    pub layers: bool,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct Sampling {
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keep this many tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Drop tokens less likely than this times the likeliest
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `mixbit run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Model folder, Hugging Face or MLX
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The prompt; `-` reads stdin
    #[arg(long, short, required_unless_present = "prompt_tokens", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Token ids instead of a prompt, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "system"])]
    pub prompt_tokens: Vec<u32>,
    /// Most tokens to generate
    #[arg(long, short, default_value_t = 256, value_name = "N")]
    pub max_tokens: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sampling: Sampling,
    /// System message for the chat template; an empty one removes the template's own
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Give the model the prompt as it is
    #[arg(long, conflicts_with = "system")]
    pub disable_chat_template: bool,
    /// Go on past end-of-sequence tokens
    #[arg(long)]
    pub ignore_eos: bool,
    /// Show the prompt as the model sees it, and the stop tokens
    #[arg(long)]
    pub verbose: bool,
    /// Compute in this type [default: float32 on the CPU, the model's own on Metal]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// `mixbit logits`.
#[derive(Debug, Args)]
pub struct Logits {
    /// Model folder, Hugging Face or MLX
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Token ids separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "prompt")]
    pub tokens: Vec<u32>,
    /// Text instead of token ids, tokenized with the tokenizer's own BOS rule
    #[arg(long, conflicts_with = "tokens")]
    pub prompt: Option<String>,
    /// Feed the tokens through the cache so many at a time, instead of all at once without a cache
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub step: Option<u32>,
    /// File to write: float32 `logits` [tokens, vocabulary] and int32 `tokens`
    #[arg(long, value_name = "FILE.npz")]
    pub out: PathBuf,
    /// Compute in this type [default: float32 on the CPU, the model's own on Metal]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// `5GB`, `500 MB`, `1.5GiB`. A bare number is taken for a slip unless it is a plausible count of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = match text[digits.len()..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "T" | "TB" => 1e12,
        "KIB" => 1024.0,
        "MIB" => 1024.0 * 1024.0,
        "GIB" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit `{other}`, use KB, MB, GB, KiB, MiB or GiB")),
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() && number * unit >= 1000.0 => Ok((number * unit) as u64),
        Ok(_) => Err(format!("`{text}` is under 1 KB: give a unit, such as 5GB")),
        Err(_) => Err(format!("`{text}` is not a size such as 5GB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("1.5kib"), Ok(1536));
        assert_eq!(parse_size("1700"), Ok(1700));
        assert_eq!(parse_size("5 G"), Ok(5_000_000_000));
        for bad in ["", "GB", "-5GB", "5XB", "0", "5", "nanGB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
