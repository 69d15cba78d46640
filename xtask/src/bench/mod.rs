//! `cargo xtask bench`: mixbit and mlx-lm on the same input and machine, run in turns.

mod checkpoint;
mod convert;
mod generate;
mod measure;
mod quantize;
mod table;
mod turns;

use anyhow::Result;
use clap::{Args, Subcommand};

/// The benches.
#[derive(Subcommand)]
pub enum Bench {
    /// Convert a 950M-parameter checkpoint from float32 to float16
    Convert(Options),
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
        Bench::Quantize(options) => quantize::run(options),
        Bench::Run(options) => generate::run(options),
    }
}
