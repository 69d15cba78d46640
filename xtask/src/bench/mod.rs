//! `cargo xtask bench`: mixbit and mlx-lm on the same input and machine, run in turns.

mod analyze;
mod checkpoint;
mod convert;
mod generate;
mod measure;
mod preload;
mod quality;
mod quantize;
mod sensitivity;
mod table;
mod turns;

use anyhow::Result;
use clap::{Args, Subcommand};

/// The benches.
#[derive(Subcommand)]
pub enum Bench {
    /// Convert a 950M-parameter checkpoint from float32 to float16
    Convert(Options),
    /// Time and memory of sensitivities: MobileLLM-R1-950M's shape, and the same with twice the blocks
    Analyze(analyze::Options),
    /// Held-out KL divergence and perplexity at several sizes, beside mlx-lm's quantizers
    Quality(quality::Options),
    /// Predicted against measured KL divergence, one layer at a time
    Sensitivity(sensitivity::Options),
    /// Quantize the same checkpoint to 4 bits
    Quantize(Options),
    /// Read a prompt and generate, with a 125M-parameter float16 model
    Run(Options),
}

/// What every bench takes.
#[derive(Args)]
pub struct Options {
    /// How often each program runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs one.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Convert(options) => convert::run(options),
        Bench::Analyze(options) => analyze::run(options),
        Bench::Quality(options) => quality::run(options),
        Bench::Sensitivity(options) => sensitivity::run(options),
        Bench::Quantize(options) => quantize::run(options),
        Bench::Run(options) => generate::run(options),
    }
}
