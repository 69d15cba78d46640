//! `mixbit models`: the models that mixbit supports.

use crate::cli::args::Models;
use crate::error::Result;
use crate::report::{out, supported_json, supported_table};

/// Runs the command.
pub fn run(args: &Models) -> Result<()> {
    if args.json {
        return out(&format!("{:#}\n", supported_json()));
    }
    out(&supported_table())
}
