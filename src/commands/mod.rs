//! One file per subcommand: arguments, plan, stages, report.

mod analyze;
mod answering;
mod caching;
mod chat;
mod check;
mod convert;
mod curve;
mod dequantize;
mod drafting;
mod eval;
mod inspect;
mod logits;
mod measure;
mod models;
mod opening;
mod pack;
mod prompting;
mod quantize;
mod rates;
mod recipes;
mod report;
mod run;
mod scoring;
mod settings;
mod streaming;
mod templating;
mod texts;
mod unpack;
mod upload;

use crate::cli::{Cli, Command};
use crate::error::{Error, Result};
use crate::hub;
use crate::report::Console;

/// Runs the subcommand.
pub fn run(mut cli: Cli) -> Result<()> {
    let console = Console::new(cli.quiet);
    let loud = match &cli.command {
        Command::Run(args) => args.show.verbose,
        Command::Chat(args) => args.verbose,
        _ => false,
    };
    if cli.quiet && loud {
        return Err(Error::usage("--quiet and --verbose ask for opposite things").hint("leave one out"));
    }
    let hiding = models::hiding(&mut cli.command);
    let headers = models::locate(&mut cli.command, &console)?;
    obey(cli.command, &console).map_err(|error| {
        let error = models::hidden(&hiding, error);
        let error = match hub::hint_in_cache(&error) {
            Some(hint) => error.hint(hint),
            None => error,
        };
        headers.iter().fold(error, |error, headers| headers.relocated(error))
    })
}

fn obey(command: Command, console: &Console) -> Result<()> {
    match command {
        Command::Convert(args) => convert::run(&args, console),
        Command::Quantize(args) => quantize::run(&args, console),
        Command::Analyze(args) => analyze::run(&args, console),
        Command::Curve(args) => curve::run(&args, console),
        Command::Recipes(args) => recipes::run(&args),
        Command::Dequantize(args) => dequantize::run(&args, console),
        Command::Inspect(args) => inspect::run(&args, console),
        Command::Eval(args) => eval::run(&args, console),
        Command::Check(args) => check::run(&args, console),
        Command::Report(args) => report::run(&args, console),
        Command::Run(args) => run::run(&args, console),
        Command::Chat(args) => chat::run(&args, console),
        Command::Pack(args) => pack::run(&args, console),
        Command::Unpack(args) => unpack::run(&args, console),
        Command::Upload(args) => upload::run(&args, console),
        Command::Logits(args) => logits::run(&args, console),
    }
}
