//! Arguments of commands that measure sensitivities and show them.

use clap::builder::{OsStringValueParser, PossibleValue, TypedValueParser};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::command::{FloatDtype, parse_size, sequence_length, whole, whole_in};
use super::share::Hub;
use super::template::Template;
use crate::choose::recipe::Quality;
use crate::jobs::settings::MeasureMethod;
use crate::numerics::rounding::Technique;

/// Text that sensitivities are measured on.
#[derive(Debug, Args)]
pub struct Calibration {
    /// Plain UTF-8 text, documents separated by lines `<|endoftext|>`; JSONL with `text` or conversations; or token ids
    /// in an .npy or .npz; or `generated[:TOKENS]`: text that the model writes itself, kept beside the output [default: a
    /// text that mixbit carries]
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(CalibrationText::parse))]
    pub calibration: Option<CalibrationText>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: Template,
    /// Effort for the result; other flags override its settings [default: the recipe's, or balanced]. Times and memory
    /// are for 950 M parameters and sequences of 512 tokens on two cores (400 GFLOP per second), those of best by the
    /// estimate; the estimate for your model and machine is printed before the work begins
    #[arg(long, value_enum)]
    pub quality: Option<Quality>,
    /// Sequences of the text: GPTQ sees them all [default: the recipe's, or 64; 16 with --quality fast, 128 with best]
    #[arg(long, value_name = "N", value_parser = whole_in(1, 100_000))]
    pub samples: Option<u32>,
    /// Number of these sequences, from all over the text, that sensitivities are measured on; more hardly change which
    /// layer gets how many bits [default: the recipe's, or 16; all with --method alignment]
    #[arg(long, value_name = "N", value_parser = whole_in(1, 100_000))]
    pub sensitivity_samples: Option<u32>,
    /// Tokens per sequence [default: the recipe's; else 512, or the model's context if that is shorter]
    #[arg(long, value_name = "T", value_parser = sequence_length)]
    pub sequence_length: Option<u32>,
    /// Seed of the choice of sequences and of label sampling [default: the recipe's, or 0]
    #[arg(long, value_parser = whole::<u64>)]
    pub seed: Option<u64>,
    /// Method of measuring sensitivities [default: fisher]
    #[arg(long, value_enum)]
    pub method: Option<MeasureMethod>,
    /// Technique that rounds weights, for whose errors sensitivities are measured [default: gptq where something is
    /// measured; where all bits are fixed, search with a --calibration text or --distill, and rtn without]
    #[arg(long, value_enum)]
    pub rounding: Option<Rounding>,
    /// Hidden states in memory; more go to a temporary file (in $TMPDIR) [default: 4MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub activation_memory: Option<u64>,
}

/// `mixbit analyze`.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Model to measure: folder, pack, or name on the Hub
    #[arg(long, alias = "hf-path", value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    /// Table to write
    #[arg(long, value_name = "FILE.json")]
    pub out: PathBuf,
    /// Candidates to measure, such as "3,4,6 x 64,128" [default: 2,3,4,5,6,8 x 32,64,128]
    #[arg(long, value_name = "LIST")]
    pub candidates: Option<String>,
    /// Take candidates and calibration settings from a recipe: a name that `mixbit recipes` lists, or a file
    #[arg(long, value_name = "NAME|FILE")]
    pub recipe: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub calibration: Calibration,
    /// Element type of scales and biases
    #[arg(long, value_enum, default_value = "float16")]
    pub dtype: FloatDtype,
    /// Continue an interrupted measurement after its last finished block
    #[arg(long)]
    pub resume: bool,
    /// Replace the table if it exists; without --resume an unfinished measurement too
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
    /// Draw the curve as an SVG file
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    pub svg: Option<PathBuf>,
    /// Replace the SVG file if it exists
    #[arg(long, requires = "svg")]
    pub overwrite: bool,
}

/// Origin of a calibration text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalibrationText {
    /// A file.
    File(PathBuf),
    /// The model itself, which writes as many tokens, or as many as the samples need.
    Generated(Option<u64>),
}

impl CalibrationText {
    fn parse(value: OsString) -> Result<Self, String> {
        let tokens = match value.to_str().map(|value| value.strip_prefix("generated")) {
            Some(Some("")) => return Ok(Self::Generated(None)),
            Some(Some(rest)) => rest.strip_prefix(':'),
            _ => None,
        };
        let Some(tokens) = tokens else { return Ok(Self::File(value.into())) };
        match tokens.parse() {
            Ok(tokens @ 1..=1_000_000_000) => Ok(Self::Generated(Some(tokens))),
            _ => Err(format!(
                "`{tokens}` is no number of tokens from 1 to 1000000000; a file of this name is `./generated:{tokens}`"
            )),
        }
    }

    /// Returns the path of the file; `None` for a text that is to be generated.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Generated(_) => None,
        }
    }
}

/// Rounding of weights to codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rounding {
    /// to nearest, bit-exact with mx.quantize
    Rtn,
    /// scale and bias of each group searched, weighted by the layer's inputs
    Search,
    /// scale search, later columns make up for the errors of earlier ones, and then codes and scales are improved in turn
    Gptq,
}

impl From<Rounding> for Technique {
    fn from(rounding: Rounding) -> Self {
        match rounding {
            Rounding::Rtn => Self::Rtn,
            Rounding::Search => Self::Search,
            Rounding::Gptq => Self::Gptq,
        }
    }
}

impl ValueEnum for Quality {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Fast => "scale search, 16 sequences: 6 minutes, 2 GB",
            Self::Balanced => {
                "GPTQ, 64 sequences: 14 minutes, 2 GB; what is done where something is measured and nothing else is said"
            }
            Self::Best => "GPTQ, 128 sequences, then --refine 2 and --distill 150 --learn codes: 4.5 hours, 16 GB",
        }))
    }
}

impl ValueEnum for MeasureMethod {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Fisher, Self::Alignment]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Fisher => PossibleValue::new("fisher").help(
                "second order: what rounding does to the KL divergence, by the diagonal of the Fisher information",
            ),
            Self::Alignment => {
                PossibleValue::new("alignment").help("first order, as mlx-lm's dynamic_quant does it; to compare")
            }
        })
    }
}
