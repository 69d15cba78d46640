//! Arguments of commands that make models, and of recipes.

use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;

use super::command::{FloatDtype, Output, parse_size, whole};
use super::measure::Calibration;
use super::share::Hub;
use super::tune::{Tuning, positive};
use crate::numerics::quant::Mode;

/// `mixbit convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Model to read: folder, pack, GGUF, or name on the Hub
    #[arg(long, alias = "model", value_name = "MODEL")]
    pub hf_path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    /// Element type to write [default: that of most weights]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
    /// Decode quantized layers too, as `mixbit dequantize` does
    #[arg(long)]
    pub dequantize: bool,
}

/// Size of the result: a target, or one setting for every layer.
#[derive(Debug, Args)]
pub struct Size {
    /// Average bits per weight of the linear layers, scales and biases included; never exceeded
    #[arg(long, value_name = "BITS", value_parser = positive, conflicts_with_all = ["target_size", "bits", "mode"])]
    pub target_bpw: Option<f64>,
    /// Bytes of all tensors, such as 800MB; never exceeded
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with_all = ["bits", "mode"])]
    pub target_size: Option<u64>,
    /// Bits of every layer, or bits:group; nothing is measured
    #[arg(long, value_name = "BITS[:GROUP]", conflicts_with = "method")]
    pub bits: Option<String>,
    /// Mode in which codes stand for numbers [default: affine]; mxfp4, mxfp8 and nvfp4 have one setting each and need
    /// no --bits
    #[arg(long, value_enum, conflicts_with = "method")]
    pub mode: Option<Mode>,
}

/// `mixbit quantize`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("size-or-recipe").required(true).multiple(true)
    .args(["target_bpw", "target_size", "bits", "mode", "recipe"]))]
#[command(group = ArgGroup::new("distilling").multiple(true).args(["distill", "quality", "recipe"]))]
pub struct Quantize {
    /// Model to read: folder, pack, GGUF, or name on the Hub
    #[arg(long, alias = "model", value_name = "MODEL")]
    pub hf_path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub size: Size,
    /// Recipe of candidates, fixed layers and calibration: a name that `mixbit recipes` lists, or a file; other flags
    /// override it
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["bits", "mode"])]
    pub recipe: Option<String>,
    /// With --bits, weights that share a scale: 32, 64 or 128 [default: 64, or the mode's]
    #[arg(long, value_name = "GROUP", value_parser = whole::<u32>, conflicts_with_all = ["target_bpw", "target_size", "recipe"])]
    pub group_size: Option<u32>,
    /// Settings that a layer may get: bits x group sizes, such as "3,4,6 x 64,128", and `+ keep` for float; or a list
    /// of settings, such as "nvfp4,4:64,keep" [default: 2,3,4,5,6,8 x 32,64,128 + keep]
    #[arg(long, value_name = "LIST", conflicts_with_all = ["bits", "mode"])]
    pub candidates: Option<String>,
    /// Fix layers: GLOB=bits[:group[:mode]] or GLOB=float; may be repeated, the last that matches wins
    #[arg(long, value_name = "RULE")]
    pub layer: Vec<String>,
    /// Decode layers that arrive quantized and quantize them anew; without this they stay as they are
    #[arg(long)]
    pub requantize: bool,
    /// Quantize the embedding too, to BITS[:GROUP]; it is not part of --target-bpw
    #[arg(long, value_name = "BITS[:GROUP]")]
    pub quantize_embeddings: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub calibration: Calibration,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: Tuning,
    /// Text to measure the result on, in any form that --calibration takes [default: a held-out part of the calibration
    /// text; none where all bits are fixed]
    #[arg(long, value_name = "FILE", conflicts_with = "no_eval")]
    pub eval_data: Option<PathBuf>,
    /// Do not measure the result
    #[arg(long)]
    pub no_eval: bool,
    /// Use a table that `mixbit analyze` wrote instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bits", "mode", "method"])]
    pub sensitivities: Option<PathBuf>,
    /// Element type of float tensors, scales and biases
    #[arg(long, value_enum, default_value = "float16")]
    pub dtype: FloatDtype,
    /// Print plan and bit map, write nothing but a generated calibration text
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
}

/// `mixbit dequantize`.
#[derive(Debug, Args)]
pub struct Dequantize {
    /// Model to read, with quantized layers: folder, pack, GGUF, or name on the Hub
    #[arg(long, alias = "model", value_name = "MODEL")]
    pub hf_path: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: Hub,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
    /// Element type to write [default: the model's own]
    #[arg(long, value_enum)]
    pub dtype: Option<FloatDtype>,
}

/// `mixbit recipes`.
#[derive(Debug, Args)]
pub struct Recipes {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Option<RecipesCommand>,
}

/// Subcommands of `mixbit recipes`.
#[derive(Debug, Subcommand)]
pub enum RecipesCommand {
    /// Print a recipe's TOML: a name that `mixbit recipes` lists, or a file to be checked
    Show {
        /// Name or file of the recipe
        #[arg(value_name = "NAME|FILE")]
        name: String,
    },
}
