//! The command line as a whole: global flags and the subcommands.

use super::look::{Check, Eval, Inspect, Models, Report};
use super::make::{Convert, Dequantize, Quantize, Recipes};
use super::measure::{Analyze, Curve};
use super::share::{Pack, Unpack, Upload};
use super::talk::{Chat, Logits, Run};
use clap::builder::PossibleValue;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::num::IntErrorKind;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::jobs::write::Container;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Mode;
use crate::text::corpus::LONGEST_SEQUENCE;

/// Heading of flags without one: after a group clap continues with the group's.
pub(crate) const GENERAL: Option<&'static str> = None;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the input cannot be used; the error says what is wrong
  2    wrong flags, or flags that do not go with this model
  3    run --extract-boxed: there is no \\boxed{} in the answer
  70   the engine failed
  130  interrupted by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP";

/// Turn Hugging Face checkpoints into MLX models of a chosen size and see what that cost.
#[derive(Debug, Parser)]
#[command(name = "mixbit", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: Command,
    /// No progress bars and notes on stderr.
    #[arg(long, short, global = true, help_heading = GENERAL)]
    pub quiet: bool,
}

/// Flags whose values are lists or have units, which clap does not take for numbers if they begin with a minus.
const NOT_ONE_NUMBER: [&str; 6] =
    ["logit_bias", "prompt_tokens", "tokens", "max_shard_size", "target_size", "activation_memory"];

impl Cli {
    /// Parses the arguments of this process; help, versions and mistakes end it.
    pub fn from_arguments() -> Self {
        let matches = Self::lenient().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Returns the command with values that may begin with a minus, so that errors are about the value and not a flag
    /// `-1`.
    fn lenient() -> clap::Command {
        let value = |arg: Arg| {
            let takes_value = arg.get_action().takes_values() && !arg.is_positional();
            let is_list = NOT_ONE_NUMBER.contains(&arg.get_id().as_str());
            let arg = if is_list { arg.allow_hyphen_values(true) } else { arg };
            if takes_value { arg.allow_negative_numbers(true) } else { arg }
        };
        Self::command().mut_subcommands(|command| command.mut_args(value))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert a checkpoint to MLX, as float
    Convert(Convert),
    /// Make a mixed-precision model of a chosen size
    Quantize(Box<Quantize>),
    /// Measure how much each layer's rounding costs, once for all sizes
    Analyze(Analyze),
    /// Show size against predicted cost over the whole range of a table
    Curve(Curve),
    /// List the recipes that mixbit carries, or show one
    Recipes(Recipes),
    /// Turn a quantized model back into a float one
    Dequantize(Dequantize),
    /// Show the contents of a model: sizes and the bits of every layer
    Inspect(Inspect),
    /// Measure perplexity on a text, and the distance from a reference model
    Eval(Eval),
    /// Look for faults in a model folder
    Check(Check),
    /// Draw a model's contents, its making and its cost as one HTML file
    Report(Report),
    /// Generate text
    Run(Run),
    /// Talk with a model, turn by turn
    Chat(Chat),
    /// Put a model into one file
    Pack(Pack),
    /// Take a model, or a file of it, out of a pack
    Unpack(Unpack),
    /// Put a model on the Hugging Face Hub
    Upload(Upload),
    /// List the models that mixbit supports, by family
    Models(Models),
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

/// Destination and format of the output.
#[derive(Debug, Args)]
pub struct Output {
    /// Folder to write
    #[arg(long, alias = "out", value_name = "DIR")]
    pub mlx_path: PathBuf,
    /// Container of the weights
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Largest size of one safetensors file, such as 5GB or 500MB [default: 5GB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_shard_size: Option<u64>,
    /// Replace the output folder if it exists
    #[arg(long)]
    pub overwrite: bool,
    /// Write the tensors of vision towers as they are, for runners of images; mlx-lm does not use them
    #[arg(long)]
    pub keep_towers: bool,
}

impl Output {
    /// Returns the format of the weight files. Fails where the flags contradict each other.
    pub fn container(&self) -> Result<Container> {
        match (self.format, self.max_shard_size) {
            (Format::Safetensors, size) => {
                Ok(Container::Safetensors { max_shard_size: size.unwrap_or(5_000_000_000) })
            }
            (Format::Npz, None) => Ok(Container::Npz),
            (Format::Npz, Some(_)) => {
                Err(Error::usage("--max-shard-size divides safetensors, and --format npz is one file")
                    .hint("leave one of them out"))
            }
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

/// Parses a whole number from 1.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match whole(text)? {
        0 => Err("it must be at least 1".to_owned()),
        number => Ok(number),
    }
}

/// Parses a number of tokens per sequence.
pub(crate) fn sequence_length(text: &str) -> Result<u32, String> {
    match whole(text)? {
        length if (2..=LONGEST_SEQUENCE).contains(&length) => Ok(length),
        _ => Err(format!(
            "it lies between 2 and {LONGEST_SEQUENCE}; `mixbit eval --stream` reads a longer text"
        )),
    }
}

/// Returns a parser of numbers from `least` to `most`.
pub(crate) fn within(least: f32, most: f32) -> impl Fn(&str) -> Result<f32, String> + Clone {
    move |text| match text.trim().parse::<f32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) => Err(format!("it lies between {least} and {most}")),
        Err(_) => Err("expected a number".to_owned()),
    }
}

/// Returns a parser of whole numbers from `least` to `most`.
pub(crate) fn whole_in(least: u32, most: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| match whole(text)? {
        number if (least..=most).contains(&number) => Ok(number),
        _ if most == u32::MAX => Err(format!("it must be at least {least}")),
        _ => Err(format!("it lies between {least} and {most}")),
    }
}

/// Parses a whole number from 0.
pub(crate) fn whole<T: TryFrom<i128>>(text: &str) -> Result<T, String> {
    match text.trim().parse::<i128>() {
        Ok(number) if number < 0 => Err("it must not be negative".to_owned()),
        Ok(number) => T::try_from(number).map_err(|_| "it is too large".to_owned()),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Err("it is too large".to_owned()),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

/// Parses a size: `5GB`, `500 MB`, `1.5GiB`. A bare number below 1,000 is refused: its unit is missing.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
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
        Ok(number) if !(number * unit).is_finite() || number * unit >= u64::MAX as f64 => {
            Err(format!("`{text}` is more than any disk holds"))
        }
        Ok(number) if number < 0.0 => Err(format!("`{text}` is negative")),
        Ok(number) if number.is_finite() && number * unit >= 1000.0 => Ok((number * unit).round() as u64),
        Ok(_) => Err(format!("`{text}` is under 1 KB: give a unit, such as 5GB")),
        Err(_) => Err(format!("`{text}` is not a size such as 5GB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
        Cli::lenient().debug_assert();
    }

    #[test]
    fn a_minus_is_no_flag() {
        let refused = |arguments: &[&str]| {
            let base = ["mixbit", "run", "--model", "x", "--prompt", "y"];
            Cli::lenient().try_get_matches_from([&base[..], arguments].concat()).unwrap_err().to_string()
        };
        for (arguments, expected) in [
            (["-m", "-1"], "invalid value '-1' for '--max-tokens <N>': it must not be negative"),
            (["--seed", "-1"], "invalid value '-1' for '--seed <SEED>': it must not be negative"),
            (["--top-k", "-1"], "invalid value '-1' for '--top-k <TOP_K>': it must not be negative"),
            (["--context-size", "-5"], "for '--context-size <N>': it must not be negative"),
            (["--kv-bits", "-4"], "expected one of [4, 8]"),
            (["--logit-bias", "-1=2"], "`-1` is not a token id"),
            (["--repetition-context-size", "x"], "expected a whole number"),
            (["-m", "0"], "invalid value '0' for '--max-tokens <N>': it must be at least 1"),
            (["--top-p", "1.01"], "it lies between 0 and 1"),
            (["--min-p", "-0.1"], "it lies between 0 and 1"),
            (["--min-p", "NaN"], "it lies between 0 and 1"),
            (["--temperature", "-1"], "it lies between 0 and 100"),
            (["--temp", "inf"], "it lies between 0 and 100"),
            (["--repetition-penalty", "0"], "logits are divided by it: 1 changes nothing"),
            (["--frequency-penalty", "x"], "expected a number"),
            (["--presence-penalty", "101"], "it lies between -100 and 100"),
        ] {
            let error = refused(&arguments);
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
        for bad in ["-1", "0", "nan", "inf", "x"] {
            let arguments = ["mixbit", "quantize", "--hf-path", "x", "--mlx-path", "y", "--target-bpw", bad];
            let error = Cli::lenient().try_get_matches_from(arguments).unwrap_err().to_string();
            assert!(error.contains("is not a number above 0"), "{error}");
        }
        let matches =
            Cli::lenient().try_get_matches_from(["mixbit", "run", "--model", "x", "-p", "y", "-m", "7"]);
        let cli = Cli::from_arg_matches(&matches.unwrap()).unwrap();
        assert!(matches!(cli.command, Command::Run(run) if run.answering.ending.max_tokens == 7));
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
