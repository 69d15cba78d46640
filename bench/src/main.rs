//! `cargo xtask bench`: mixbit and its peers on the same input and machine, run in turns.
#![allow(clippy::print_stdout, reason = "results go to standard output")]

mod analyze;
mod auto_round;
mod checkpoint;
mod convert;
mod evaluate;
mod floor;
mod generate;
mod launch;
mod llama_bench;
mod llama_cpp;
mod measure;
mod peers;
mod preload;
mod profile;
mod quality;
mod quantize;
mod quantized_models;
mod quantized_run;
mod report;
mod sensitivity;
mod stream;
mod table;
mod target;
mod trained;
mod turns;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use xtask::failure;

use report::Report;

/// Measure mixbit beside its peers: everything that has one, or one bench.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: TrainedOptions,
    #[command(subcommand)]
    bench: Option<Bench>,
}

/// The benches, and two helpers that they start as processes of their own.
#[derive(Subcommand)]
enum Bench {
    /// Convert a 950M-parameter checkpoint from float32 to float16
    Convert(Options),
    /// Quantize the same checkpoint to 4 bits
    Quantize(Options),
    /// Measure, choose and quantize at a target size, beside dynamic_quant
    Target(target::Options),
    /// Load, read a prompt and generate with SmolLM2-135M, in float16 and quantized, beside mlx-lm and llama.cpp
    Run(quantized_run::RunOptions),
    /// A text and an answer of ten times the context, with and without the first tokens kept
    Stream(Options),
    /// Perplexity: tokens per second
    Eval(TrainedOptions),
    /// Held-out KL divergence and perplexity at several sizes, beside other quantizers
    Quality(Box<quality::Options>),
    /// Time and memory of sensitivities: MobileLLM-R1-950M's shape, and the same with twice the blocks
    Analyze(analyze::Options),
    /// Predicted against measured KL divergence, one layer at a time
    Sensitivity(sensitivity::Options),
    /// Where analyze, quantize, run and eval spend processor time, by perf
    Profile(profile::Options),
    /// Run a program and print its time, peak memory and status
    #[command(hide = true)]
    Launch(launch::Launch),
    /// Print how many bytes of memory are read per second
    #[command(hide = true)]
    Bandwidth,
}

/// Repetitions of a bench and the form of its results.
#[derive(Args, Clone, Copy)]
struct Options {
    /// How often each program runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Options of a bench that runs on trained models.
#[derive(Args, Clone)]
struct TrainedOptions {
    #[command(flatten)]
    common: Options,
    #[command(flatten)]
    folders: trained::Folders,
}

fn main() -> ExitCode {
    let Cli { options, bench } = Cli::parse();
    failure::exit_code(run(bench.as_ref(), &options))
}

/// Runs one bench, or without a name all that have peers, and prints their reports.
fn run(bench: Option<&Bench>, options: &TrainedOptions) -> Result<()> {
    let (reports, json) = match bench {
        None => (run_all(options)?, options.common.json),
        Some(Bench::Convert(options)) => (vec![convert::run(*options)?], options.json),
        Some(Bench::Quantize(options)) => (vec![quantize::run(*options)?], options.json),
        Some(Bench::Target(options)) => (vec![target::run(options)?], options.trained.common.json),
        Some(Bench::Run(options)) => (run_models(options)?, options.common.json),
        Some(Bench::Stream(options)) => (vec![stream::run(*options)?], options.json),
        Some(Bench::Eval(options)) => (vec![evaluate::run(options)?], options.common.json),
        Some(Bench::Quality(options)) => (quality::run(options)?, options.json),
        Some(Bench::Analyze(options)) => (vec![analyze::run(options)?], options.json),
        Some(Bench::Profile(options)) => (vec![profile::run(options)?], options.json),
        Some(Bench::Sensitivity(options)) => return sensitivity::run(options),
        Some(Bench::Launch(launch)) => return launch.serve(),
        Some(Bench::Bandwidth) => {
            println!("{}", floor::bandwidth());
            return Ok(());
        }
    };
    report::print(&reports, json);
    Ok(())
}

/// Runs models beside mlx-lm and beside llama.cpp.
fn run_models(options: &quantized_run::RunOptions) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    if options.is_beside_mlx_lm() {
        reports.push(generate::run(options.common)?);
    }
    reports.push(quantized_run::run(options)?);
    Ok(reports)
}

fn run_all(options: &TrainedOptions) -> Result<Vec<Report>> {
    let mut reports = vec![
        convert::run(options.common)?,
        quantize::run(options.common)?,
        target::run(&target::Options { trained: options.clone(), small: false })?,
    ];
    reports.extend(run_models(&quantized_run::RunOptions::new(options.common))?);
    reports.push(evaluate::run(options)?);
    reports.extend(quality::run(&quality::Options::from_trained(options))?);
    Ok(reports)
}
