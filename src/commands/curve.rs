//! `mixbit curve`: size against predicted KL divergence, from a table alone.

use crate::allocate::{Choice, Layer, Problem};
use crate::candidate::Candidate;
use crate::cli::Curve;
use crate::error::Result;
use crate::report::{Align, Console, Table as TextTable, bytes, out};
use crate::sensitivity::{LayerSensitivity, Table};

/// Steps of bits a weight.
const STEP: f64 = 0.25;

/// Runs the command.
pub fn run(args: &Curve, _console: &Console) -> Result<()> {
    let table = Table::read(&args.table)?;
    let width = table.measurement.dtype.bytes();
    let weights: f64 = table.layers.iter().map(|layer| (layer.rows * layer.columns) as f64).sum();
    let layers = table.layers.iter().map(|layer| options(layer, width)).collect();
    let problem = Problem::new(layers, &[])?;
    let bpw = |bytes: u64| bytes as f64 * 8.0 / weights;
    let (least, most) = problem.reachable();
    let mut rows = Vec::new();
    let mut budgets = vec![least];
    let mut target = (bpw(least) / STEP).floor() * STEP + STEP;
    while target < bpw(most) {
        budgets.push((target * weights / 8.0) as u64);
        target += STEP;
    }
    budgets.push(most);
    for budget in budgets {
        let solution = problem.solve(budget)?;
        rows.push((bpw(solution.bytes), solution.bytes, solution.loss));
    }
    if args.csv {
        let lines = rows.iter().map(|(bpw, bytes, kl)| format!("{bpw},{bytes},{kl:e}\n"));
        return out(&std::iter::once("bpw,bytes,predicted_kl\n".to_owned()).chain(lines).collect::<String>());
    }
    let mut text = TextTable::new(&[
        ("bpw", Align::Right),
        ("linear layers", Align::Right),
        ("predicted KL", Align::Right),
    ]);
    for (bpw, size, kl) in rows {
        text.row([format!("{bpw:.3}"), bytes(size), format!("{kl:.3e}")]);
    }
    out(&text.to_string())
}

/// What was measured, and float at no cost.
fn options(layer: &LayerSensitivity, width: usize) -> Layer {
    let measured = layer.scores.iter().map(|score| (Candidate::Quantized(score.quant), score.kl));
    let options = measured.chain([(Candidate::Keep, 0.0)]).filter_map(|(candidate, loss)| {
        Some(Choice { candidate, bytes: candidate.bytes(layer.rows, layer.columns, width)?, loss })
    });
    Layer { path: layer.path.clone(), options: options.collect() }
}
