//! `mixbit check`: findings about a model folder.
//!
//! `--json` prints an array of findings in the order of the lines: `level` (`ok`, `note` or `problem`), `subject`,
//! `message`, and `hint` (a string or null).

use super::flag_names::flags;
use crate::cli::args::Check;
use crate::error::{Error, Result};
use crate::jobs::check;
use crate::jobs::check::Level;
use crate::report::{Console, finding_lines, out};
use crate::words::count;

/// Runs the command. A problem is an error, so that the exit code says so.
pub fn run(args: &Check, console: &Console) -> Result<()> {
    let bar = console.bytes_bar("reading values", 1);
    let mut findings = check::check(&args.model, args.reference.as_deref(), &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    for finding in &mut findings {
        finding.message = flags(&finding.message);
        finding.hint = finding.hint.as_deref().map(flags);
    }
    if args.json {
        let text = serde_json::to_string_pretty(&findings).map_err(|e| Error::input(e.to_string()))?;
        out(&format!("{text}\n"))?;
    } else {
        out(&finding_lines(&findings))?;
    }
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    match problems {
        0 => Ok(()),
        n => Err(Error::file(&args.model, count(n, "problem"))
            .hint("the findings above say which, and what can be done")),
    }
}
