//! `cargo xtask bench analyze`: time and peak memory of sensitivities; memory must not grow with depth.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use xtask::build::{Profile, build_mixbit};
use xtask::workspace;

use crate::measure::{self, Samples};
use crate::report::{Report, row};
use crate::{checkpoint, table};

const SAMPLES: usize = 16;
const LENGTH: usize = 512;

/// Options of the bench.
#[derive(Args)]
pub struct Options {
    /// How often each model is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Candidates; fewer save time, memory does not depend on them
    #[arg(long, default_value = "2,3,4,5,6,8 x 32,64,128")]
    candidates: String,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<Report> {
    let root = workspace::root();
    let mixbit = root.join(build_mixbit(Profile::Release)?);
    let mut rows = Vec::new();
    for checkpoint in [checkpoint::mobilellm_r1_950m()?, checkpoint::mobilellm_r1_deep()?] {
        let model = checkpoint.ensure()?;
        let out = root.join("bench-data/table.json");
        let log = root.join("bench-data/analyze.log");
        let mut samples = Samples::default();
        for run in 1..=options.runs {
            eprintln!("bench: {}, run {run} of {}", checkpoint.name(), options.runs);
            let mut command = Command::new(&mixbit);
            command.args(["analyze", "--overwrite", "--model"]).arg(&model).arg("--out").arg(&out);
            command.args(["--samples", &SAMPLES.to_string(), "--sequence-length", &LENGTH.to_string()]);
            command.args(["--candidates", &options.candidates]);
            samples.0.push(measure::child(&command, &log)?);
        }
        rows.push((checkpoint, samples));
    }
    let growth = rows[1].1.medians()[1] / rows[0].1.medians()[1];
    let mut cells = vec![row(&["", "seconds", "peak MB", "GFLOP per second"])];
    for (checkpoint, samples) in &rows {
        // Forward, and twice that back; the tied head counts as a layer, without a gradient of its own.
        let flops = 6.0 * (SAMPLES * LENGTH * checkpoint.parameters()) as f64;
        let rates: Vec<f64> = samples.seconds().iter().map(|seconds| flops / seconds / 1e9).collect();
        cells.push(vec![
            checkpoint.name().to_owned(),
            table::spread(&samples.seconds(), 1),
            table::spread(&samples.megabytes(), 0),
            table::spread(&rates, 0),
        ]);
    }
    let facts: Vec<_> = rows.iter().map(|(checkpoint, samples)| samples.json(checkpoint.name())).collect();
    Ok(Report {
        name: "analyze",
        title: format!(
            "sensitivities on {SAMPLES} x {LENGTH} tokens, candidates {}, float32; runs: {}",
            options.candidates, options.runs
        ),
        ratios: vec![
            row(&["", "peak memory"]),
            vec!["44 blocks / 22 blocks".to_owned(), format!("{growth:.2}")],
        ],
        rows: cells,
        notes: Vec::new(),
        facts: json!({ "memory_growth": growth, "rows": facts }),
    })
}
