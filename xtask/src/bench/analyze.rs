//! `cargo xtask bench analyze`: time and peak memory of sensitivities, and that memory does not grow with depth.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{checkpoint, measure, table};
use crate::workspace;

const SAMPLES: usize = 16;
const LENGTH: usize = 512;

/// What to measure.
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
    json: bool,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let mixbit = root.join(workspace::release()?);
    let mut rows = Vec::new();
    for checkpoint in [checkpoint::mobilellm_r1_950m()?, checkpoint::mobilellm_r1_deep()?] {
        let model = checkpoint.ensure()?;
        let out = root.join("bench-data/table.json");
        let log = root.join("bench-data/analyze.log");
        let mut samples = Vec::new();
        for run in 1..=options.runs {
            eprintln!("bench: {}, run {run} of {}", checkpoint.name(), options.runs);
            let mut command = Command::new(&mixbit);
            command.args(["analyze", "--overwrite", "--model"]).arg(&model).arg("--out").arg(&out);
            command.args(["--samples", &SAMPLES.to_string(), "--sequence-length", &LENGTH.to_string()]);
            command.args(["--candidates", &options.candidates]);
            samples.push(measure::child(&mut command, &log)?);
        }
        rows.push((checkpoint, samples));
    }
    let peak = |row: &(_, Vec<measure::Sample>)| {
        table::median(&row.1.iter().map(|sample| sample.peak / 1e6).collect::<Vec<_>>())
    };
    let growth = peak(&rows[1]) / peak(&rows[0]);
    let mut cells = vec![["", "seconds", "peak MB", "GFLOP a second"].map(str::to_owned).to_vec()];
    for (checkpoint, samples) in &rows {
        let seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
        let peaks: Vec<f64> = samples.iter().map(|sample| sample.peak / 1e6).collect();
        // Forward, and twice that back; the tied head counts as a layer, without a gradient of its own.
        let flops = 6.0 * (SAMPLES * LENGTH * checkpoint.parameters()) as f64;
        let rates: Vec<f64> = seconds.iter().map(|seconds| flops / seconds / 1e9).collect();
        cells.push(vec![
            checkpoint.name().to_owned(),
            table::spread(&seconds, 1),
            table::spread(&peaks, 0),
            table::spread(&rates, 0),
        ]);
    }
    if options.json {
        let rows = rows.iter().map(|(checkpoint, samples)| {
            let seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
            let peaks: Vec<f64> = samples.iter().map(|sample| sample.peak).collect();
            json!({ "model": checkpoint.name(), "seconds": seconds, "peak_bytes": peaks })
        });
        let rows: Vec<_> = rows.collect();
        println!("{:#}", json!({ "bench": "analyze", "memory_growth": growth, "rows": rows }));
        return Ok(());
    }
    println!(
        "analyze, {SAMPLES} x {LENGTH} tokens, candidates {}, float32; runs: {}\nmemory of 44 blocks over that of 22: {growth:.2}\n\n{}",
        options.candidates,
        options.runs,
        table::columns(&cells)
    );
    Ok(())
}
