//! `cargo xtask bench`: mixbit and its peers on the same input and machine, run in turns.

mod analyze;
mod checkpoint;
mod convert;
mod evaluate;
mod floor;
mod generate;
mod launch;
mod llama_cpp;
mod measure;
mod peers;
mod preload;
mod profile;
mod quality;
mod quantize;
mod report;
mod sensitivity;
mod stream;
mod table;
mod target;
mod trained;
mod turns;

use anyhow::Result;
use clap::{Args, Subcommand};

pub use self::floor::bandwidth;
pub use self::launch::Launch;
use self::report::Report;

/// The benches.
#[derive(Subcommand)]
pub enum Bench {
    /// Convert a 950M-parameter checkpoint from float32 to float16
    Convert(Options),
    /// Quantize the same checkpoint to 4 bits
    Quantize(Options),
    /// Measure, choose and quantize at a target size, beside dynamic_quant
    Target(target::Options),
    /// Load, read a prompt and generate, with SmolLM2-135M in float16
    Run(Options),
    /// A text and an answer of ten times the context, with and without the first tokens kept
    Stream(Options),
    /// Perplexity: tokens a second
    Eval(AllOptions),
    /// Held-out KL divergence and perplexity at several sizes, beside other quantizers
    Quality(quality::Options),
    /// Time and memory of sensitivities: MobileLLM-R1-950M's shape, and the same with twice the blocks
    Analyze(analyze::Options),
    /// Predicted against measured KL divergence, one layer at a time
    Sensitivity(sensitivity::Options),
    /// Where analyze, quantize, run and eval spend processor time, by perf
    Profile(profile::Options),
}

/// How often, and how it is printed.
#[derive(Args, Clone, Copy)]
pub struct Options {
    /// How often each program runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// The same, with trained models.
#[derive(Args, Clone)]
pub struct AllOptions {
    /// How often each program runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folders: trained::Folders,
}

/// Runs one bench, or without a name all that have peers.
pub fn run(bench: Option<&Bench>, options: &AllOptions) -> Result<()> {
    let (reports, json) = match bench {
        None => (all(options)?, options.json),
        Some(Bench::Convert(options)) => (vec![convert::run(*options)?], options.json),
        Some(Bench::Quantize(options)) => (vec![quantize::run(*options)?], options.json),
        Some(Bench::Target(options)) => (vec![target::run(&options.all, options.small)?], options.all.json),
        Some(Bench::Run(options)) => (vec![generate::run(*options)?], options.json),
        Some(Bench::Stream(options)) => (vec![stream::run(*options)?], options.json),
        Some(Bench::Eval(options)) => (vec![evaluate::run(options)?], options.json),
        Some(Bench::Quality(options)) => (quality::run(options)?, options.json),
        Some(Bench::Analyze(options)) => (vec![analyze::run(options)?], options.json),
        Some(Bench::Profile(options)) => (vec![profile::run(options)?], options.json),
        Some(Bench::Sensitivity(options)) => return sensitivity::run(options),
    };
    report::print(&reports, json);
    Ok(())
}

fn all(options: &AllOptions) -> Result<Vec<Report>> {
    let simple = Options { runs: options.runs, json: options.json };
    let mut reports = vec![
        convert::run(simple)?,
        quantize::run(simple)?,
        target::run(options, false)?,
        generate::run(simple)?,
        evaluate::run(options)?,
    ];
    reports.extend(quality::run(&quality::Options::all(options))?);
    Ok(reports)
}
