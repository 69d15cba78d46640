//! `cargo bench --bench allocate`: solving 10,000 layers of 19 options each, ordering once and then for several budgets.
#![allow(clippy::print_stdout, clippy::expect_used, missing_docs)]

use std::time::Instant;

use mixbit::choose::allocate::{Choice, Layer, Problem};
use mixbit::choose::candidate::DEFAULT_CANDIDATES;

/// Returns layers of the sizes of a decoder's seven matrices, with losses that fall by four per bit from a random start.
fn layers(count: usize) -> Vec<Layer> {
    let shapes =
        [(1536, 1536), (384, 1536), (384, 1536), (1536, 1536), (6144, 1536), (6144, 1536), (1536, 6144)];
    let mut rng = fastrand::Rng::with_seed(1);
    let layer = |index: usize| {
        let (rows, columns) = shapes[index % shapes.len()];
        let scale = rng.f64().powi(4);
        let options = DEFAULT_CANDIDATES.iter().filter_map(|&candidate| {
            let bpw = candidate.bpw(columns, 2)?;
            let loss = candidate.quant().map_or(0.0, |_| scale * 4f64.powf(-bpw));
            Some(Choice { candidate, bytes: candidate.bytes(rows, columns, 2)?, loss })
        });
        Layer { path: format!("layers.{index}"), options: options.collect() }
    };
    (0..count).map(layer).collect()
}

fn main() {
    let start = Instant::now();
    let problem = Problem::new(layers(10_000), &[]).expect("a sound problem");
    println!("ordered in {:?}", start.elapsed());
    let (least, most) = problem.reachable();
    for part in [0.0, 0.01, 0.1, 0.2, 0.5, 0.9] {
        let budget = least + ((most - least) as f64 * part) as u64;
        let start = Instant::now();
        let found = problem.solve(budget).expect("a reachable budget");
        println!(
            "{part}: {:?}, gap {:e}, {} bytes left",
            start.elapsed(),
            found.gap / found.loss,
            budget - found.bytes
        );
    }
}
