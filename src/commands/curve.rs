//! `mixbit curve`: size against predicted KL divergence, from a table alone.

use crate::allocate::{Choice, Layer, Problem};
use crate::candidate::Candidate;
use crate::cli::Curve;
use crate::error::Result;
use crate::html::curve_svg;
use crate::output_file;
use crate::report::{Align, Console, Table as TextTable, bytes, out};
use crate::rounding::Technique;
use crate::sensitivity::{LayerSensitivity, Table};

/// Steps of bits a weight.
pub const STEP: f64 = 0.25;

/// Runs the command.
pub fn run(args: &Curve, console: &Console) -> Result<()> {
    if let Some(path) = &args.svg {
        output_file::check(path, args.overwrite)?;
        output_file::apart(path, &[&args.table])?;
    }
    let Table { measurement, layers, correction } = Table::read(&args.table)?;
    let technique = if correction.gptq.is_empty() { measurement.rounding } else { Technique::Gptq };
    console.line(&format!("predicted for --rounding {technique}"));
    let width = measurement.dtype.bytes();
    let layers = correction.scores_for(technique, &layers);
    let points = correction.curve(problem(&layers, width)?.sampled(weights(&layers), STEP)?);
    if let Some(path) = &args.svg {
        output_file::write(path, curve_svg(&points, &layers, width, &correction)?.as_bytes())?;
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

/// Every candidate of a table, and float at no cost, in layers whose scales take `width` bytes.
pub fn problem(layers: &[LayerSensitivity], width: usize) -> Result<Problem> {
    Problem::new(layers.iter().map(|layer| options(layer, width)).collect(), &[])
}

/// Weights of all layers.
pub fn weights(layers: &[LayerSensitivity]) -> u64 {
    layers.iter().map(|layer| (layer.rows * layer.columns) as u64).sum()
}

fn options(layer: &LayerSensitivity, width: usize) -> Layer {
    let measured = layer.scores.iter().map(|score| (Candidate::Quantized(score.quant), score.kl));
    let options = measured.chain([(Candidate::Keep, 0.0)]).filter_map(|(candidate, loss)| {
        Some(Choice { candidate, bytes: candidate.bytes(layer.rows, layer.columns, width)?, loss })
    });
    Layer { path: layer.path.clone(), options: options.collect() }
}
