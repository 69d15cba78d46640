//! `cargo xtask bench target`: from a checkpoint and a text to a model of 5 bits per weight, beside mlx-lm's `dynamic_quant`
//! with 4 and 5 bits on the same tokens.
//!
//! dynamic_quant rounds to nearest and measures nothing afterwards. mixbit is timed doing just that, and with its defaults: GPTQ,
//! and an evaluation at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use xtask::{smollm2, workspace};

use crate::floor::{self, Floor};
use crate::measure::{self, Samples};
use crate::peers::{Programs, Who};
use crate::report::{Report, row};
use crate::trained::{self, Trained};
use crate::{TrainedOptions, table};

const TARGET: &str = "5";

/// Steps in the order they run: program, mixbit's arguments, name in tables.
const STEPS: [(Who, &[&str], &str); 5] = [
    (Who::MlxLm, &[], "dynamic_quant"),
    (Who::MlxLmBlas, &[], "dynamic_quant, same BLAS"),
    (Who::Mixbit, &["--rounding", "rtn", "--no-eval"], "mixbit, to nearest, no evaluation"),
    (Who::Mixbit, &["--no-eval"], "mixbit, no evaluation"),
    (Who::Mixbit, &[], "mixbit"),
];

/// A model, its text, and the number of sequences to calibrate on.
struct Case {
    name: String,
    model: PathBuf,
    text: PathBuf,
    samples: usize,
    /// True if mlx-lm runs with its own BLAS too, which may take an hour.
    plain: bool,
}

const LENGTH: usize = 256;
/// Number of sequences that mixbit measures sensitivities on.
const SENSITIVITY_SAMPLES: usize = 16;

/// Options of the bench.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    pub trained: TrainedOptions,
    /// Leave SmolLM2-135M out
    #[arg(long)]
    pub small: bool,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<Report> {
    let Options { trained: TrainedOptions { common, folders }, small } = options;
    let programs = Programs::ready()?;
    let floor = Floor::measure(&programs)?;
    let Trained { model, calibration, .. } = folders.main()?;
    let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // What the built-in text has is less than 48 sequences.
    let samples = if folders.texts.is_some() { 48 } else { 24 };
    let mut cases = Vec::new();
    if !*small {
        let large = smollm2::ensure()?;
        let text =
            if folders.texts.is_some() { calibration.clone() } else { trained::built_in_text()?[0].clone() };
        for (samples, plain) in [(2, true), (48, false)] {
            let (name, model, text) = (smollm2::NAME.to_owned(), large.clone(), text.clone());
            cases.push(Case { name, model, text, samples, plain });
        }
    }
    cases.insert(0, Case { name, model, text: calibration, samples, plain: true });
    let mut report = empty(common.runs);
    let mut facts = Vec::new();
    for case in &cases {
        let samples = case.samples(&programs, common.runs)?;
        let tokens = (case.samples * LENGTH) as f64;
        let measured = (case.samples.min(SENSITIVITY_SAMPLES) * LENGTH) as f64;
        let least =
            (6.0 * measured + 2.0 * tokens) * floor::parameters(&programs, &case.model)? / floor.flops;
        case.add(&samples, least, &mut report);
        let rows: Vec<_> =
            STEPS.iter().zip(&samples).map(|((.., name), samples)| samples.json(name)).collect();
        facts.push(json!({ "model": case.name, "tokens": tokens, "floor_seconds": least, "rows": rows }));
    }
    report.facts = json!({ "runs": common.runs, "matmul_flops": floor.flops, "cases": facts });
    Ok(report)
}

fn empty(runs: u32) -> Report {
    Report {
        name: "target",
        title: format!(
            "measure, choose, quantize to {TARGET} bits per weight and write; float32; runs in turns: {runs} (of mlx-lm \
             as it comes one), median (lowest-highest)"
        ),
        ratios: vec![row(&[
            "mixbit / dynamic_quant",
            "time",
            "peak memory",
            "time, same BLAS",
            "peak memory, same BLAS",
        ])],
        rows: vec![row(&["model", "", "seconds", "peak MB"])],
        notes: vec![format!(
            "Floor: mixbit's passes forward and back over the {SENSITIVITY_SAMPLES} sequences that sensitivities are \
                 measured on, 6 operations per parameter and token, and forward over all for GPTQ, 2, at the rate of a \
                 large matrix product. dynamic_quant goes forward and back over all."
        )],
        facts: json!({}),
    }
}

impl Case {
    fn samples(&self, programs: &Programs, runs: u32) -> Result<Vec<Samples>> {
        let root = workspace::root().join("bench-data");
        let (out, log) = (root.join("target-out"), root.join("target.log"));
        let mut rows: Vec<Samples> = STEPS.iter().map(|_| Samples::default()).collect();
        for run in 1..=runs {
            eprintln!("bench: {}, run {run} of {runs}", self.name);
            for ((who, arguments, _), row) in STEPS.iter().zip(&mut rows) {
                if *who == Who::MlxLm && (run > 1 || !self.plain) {
                    continue;
                }
                if out.exists() {
                    fs::remove_dir_all(&out)?;
                }
                row.0.push(measure::child(&self.command(programs, *who, arguments, &out)?, &log)?);
            }
        }
        fs::remove_dir_all(&out)?;
        Ok(rows)
    }

    fn command(&self, programs: &Programs, who: Who, arguments: &[&str], out: &Path) -> Result<Command> {
        let (samples, length) = (self.samples.to_string(), LENGTH.to_string());
        let mut command = if who == Who::Mixbit {
            let mut command = programs.command(who)?;
            command.args(["quantize", "--target-bpw", TARGET]).args(arguments);
            command.arg("--hf-path").arg(&self.model).arg("--mlx-path").arg(out);
            command.arg("--calibration").arg(&self.text);
            command
        } else {
            let mut command = programs.script(who, "bench_target.py")?;
            command.args(["--target", TARGET, "--model"]).arg(&self.model).arg("--out").arg(out);
            command.arg("--text").arg(&self.text);
            command
        };
        command.args(["--samples", &samples, "--sequence-length", &length]);
        Ok(command)
    }

    fn add(&self, samples: &[Samples], least: f64, report: &mut Report) {
        let medians: Vec<[f64; 2]> = samples.iter().map(Samples::medians).collect();
        let title = format!("{}, {} x {LENGTH} tokens", self.name, self.samples);
        for ours in 2..STEPS.len() {
            let ratio = |theirs: usize, what: usize| {
                let ratio = medians[ours][what] / medians[theirs][what];
                if ratio.is_finite() { format!("{ratio:.2}") } else { "not run".to_owned() }
            };
            let name = format!("{title}: {}", STEPS[ours].2);
            report.ratios.push(vec![name, ratio(0, 0), ratio(0, 1), ratio(1, 0), ratio(1, 1)]);
        }
        for ((.., name), samples) in STEPS.iter().zip(samples).filter(|(_, samples)| !samples.0.is_empty()) {
            let mut cells = row(&[&title, name]);
            cells.push(table::spread(&samples.seconds(), 1));
            cells.push(table::spread(&samples.megabytes(), 0));
            report.rows.push(cells);
        }
        let mut floor = row(&[&title, "floor"]);
        floor.push(format!("{least:.1}"));
        report.rows.push(floor);
    }
}
