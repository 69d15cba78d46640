//! `mixbit curve`: size against predicted KL divergence, from a table alone.

use crate::choose::curve::{STEP, problem, weights};
use crate::choose::table::Table;
use crate::cli::args::Curve;
use crate::error::Result;
use crate::files::output_file;
use crate::files::output_file::Existing;
use crate::numerics::rounding::Technique;
use crate::report::html::curve_svg;
use crate::report::{Align, Console, Table as TextTable, out};
use crate::words::bytes;

/// Runs the command.
pub fn run(args: &Curve, console: &Console) -> Result<()> {
    if let Some(path) = &args.svg {
        output_file::check(path, Existing::replaced_if(args.overwrite))?;
        output_file::refuse_inputs(path, &[&args.table])?;
    }
    let Table { measurement, layers, correction } = Table::read(&args.table)?;
    let technique = correction.predicted_rounding(Technique::Gptq, measurement.rounding);
    console.line(&format!("predicted for --rounding {technique}"));
    let width = measurement.dtype.bytes();
    let layers = correction.scores_for(technique, &layers);
    let points = correction.curve(problem(&layers, width)?.sampled(weights(&layers), STEP)?);
    if let Some(path) = &args.svg {
        output_file::write(path, curve_svg(&points, &layers, width, &correction, technique)?.as_bytes())?;
        console.done(&format!("the curve in {}", path.display()));
        return Ok(());
    }
    if args.csv {
        let lines = points.iter().map(|point| format!("{},{},{:e}\n", point.bpw, point.bytes, point.kl));
        return out(&std::iter::once("bpw,bytes,predicted_kl\n".to_owned()).chain(lines).collect::<String>());
    }
    let mut text = TextTable::new(&[
        ("bpw", Align::Right),
        ("linear layers", Align::Right),
        ("predicted KL", Align::Right),
    ]);
    for point in points {
        text.row([format!("{:.3}", point.bpw), bytes(point.bytes), format!("{:.3e}", point.kl)]);
    }
    out(&text.to_string())
}
