//! Dispatch of the parsed command line to its subcommand.

use super::flag_names::{flags, flags_in};
use crate::cli::args::{Cli, Command};
use crate::error::{Error, Result};
use crate::files::hub_cache;
use crate::report::Console;

/// Runs the subcommand. Its errors name flags.
pub fn run(cli: Cli) -> Result<()> {
    locate_and_run(cli).map_err(flags_in)
}

fn locate_and_run(mut cli: Cli) -> Result<()> {
    let console = Console::new(cli.quiet, flags);
    let is_verbose = match &cli.command {
        Command::Run(args) => args.show.verbose,
        Command::Chat(args) => args.verbose,
        _ => false,
    };
    if cli.quiet && is_verbose {
        return Err(Error::usage("--quiet and --verbose ask for opposite things").hint("leave one out"));
    }
    let shadowing = super::models::shadowing_folders(&mut cli.command);
    let headers = super::models::locate(&mut cli.command, &console)?;
    run_command(cli.command, &console).map_err(|error| {
        let error = super::models::explain_shadowing(&shadowing, error);
        let error = match hub_cache::hint_in_cache(&error) {
            Some(hint) => error.hint(hint),
            None => error,
        };
        headers.iter().fold(error, |error, headers| headers.relocated(error))
    })
}

fn run_command(command: Command, console: &Console) -> Result<()> {
    match command {
        Command::Convert(args) => super::convert::run(&args, console),
        Command::Quantize(args) => crate::cli::commands::quantize::command::run(&args, console),
        Command::Analyze(args) => super::analyze::run(&args, console),
        Command::Curve(args) => super::curve::run(&args, console),
        Command::Recipes(args) => super::recipes::run(&args),
        Command::Dequantize(args) => super::dequantize::run(&args, console),
        Command::Inspect(args) => super::inspect::run(&args, console),
        Command::Eval(args) => super::eval::run(&args, console),
        Command::Check(args) => super::check::run(&args, console),
        Command::Report(args) => super::report::run(&args, console),
        Command::Run(args) => super::run::run(&args, console),
        Command::Chat(args) => super::chat::run(&args, console),
        Command::Pack(args) => super::pack::run(&args, console),
        Command::Unpack(args) => super::unpack::run(&args, console),
        Command::Upload(args) => super::upload::run(&args, console),
        Command::Models(args) => super::supported::run(&args),
        Command::Logits(args) => super::logits::run(&args, console),
    }
}
