//! `cargo xtask bench quality`: KL divergence and perplexity on held-out text, mixbit's and mlx-lm's results side by side.
//!
//! All of them are scored by `mixbit eval`, whose logits equal mlx-lm's (`cargo xtask parity`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::{preload, table};
use crate::{process, python, workspace};

const TARGETS: [f64; 7] = [2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0];

/// What to measure on.
#[derive(Args)]
pub struct Options {
    /// Trained model
    #[arg(long, default_value = "fixtures/models/mobilellm-docs-1m")]
    model: PathBuf,
    /// Text to calibrate on
    #[arg(long)]
    calibration: PathBuf,
    /// Text to evaluate on
    #[arg(long)]
    data: PathBuf,
    /// Calibration sequences
    #[arg(long, default_value_t = 48)]
    samples: usize,
    /// Their length, and that of evaluation windows
    #[arg(long, default_value_t = 256)]
    sequence_length: usize,
    /// Evaluation windows
    #[arg(long, default_value_t = 24)]
    windows: usize,
    /// Leave mlx-lm out
    #[arg(long)]
    no_peers: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One quantized model.
struct Row {
    name: String,
    bpw: f64,
    predicted: Option<f64>,
    scores: Value,
}

struct Bench<'a> {
    options: &'a Options,
    mixbit: PathBuf,
    work: PathBuf,
    rows: Vec<Row>,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let mixbit = root.join(workspace::release()?);
    let work = root.join("bench-data/quality");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let mut bench = Bench { options, mixbit, work, rows: Vec::new() };
    bench.ours()?;
    if !options.no_peers {
        bench.peers()?;
    }
    bench.rows.sort_by(|a, b| a.bpw.total_cmp(&b.bpw));
    let name = options.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if options.json {
        println!("{:#}", report(&name, &bench.rows));
    } else {
        println!("{}", text(&name, options, &bench.rows));
    }
    Ok(())
}

impl Bench<'_> {
    fn mixbit(&self, arguments: &[&str]) -> Result<String> {
        process::output(Command::new(&self.mixbit).args(arguments))
    }

    fn ours(&mut self) -> Result<()> {
        let table = self.work.join("table.json");
        let (table, model) = (table.to_string_lossy(), self.options.model.to_string_lossy().into_owned());
        let calibration = self.options.calibration.to_string_lossy();
        let (samples, length) = (self.options.samples.to_string(), self.options.sequence_length.to_string());
        let sized = ["--samples", &samples, "--sequence-length", &length, "--calibration", &calibration];
        eprintln!("bench: mixbit");
        for rounding in ["rtn", "search", "gptq"] {
            let scored = ["--rounding", rounding, "--out", &table, "--overwrite"];
            self.mixbit(&[&["analyze", "--quiet", "--model", &model], &scored[..], &sized].concat())?;
            let round = [&["--no-eval", "--rounding", rounding], &sized[..]].concat();
            for bits in [2, 3, 4, 5, 6] {
                let bits = bits.to_string();
                self.quantized(
                    &format!("{rounding}, --bits {bits}"),
                    &[&["--bits", &bits], &round[..]].concat(),
                )?;
            }
            for target in TARGETS {
                let target = target.to_string();
                let size = ["--sensitivities", &table, "--target-bpw", &target];
                self.quantized(&format!("{rounding}, --target-bpw {target}"), &[&size, &round[..]].concat())?;
            }
        }
        Ok(())
    }

    fn quantized(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let out = self.work.join("out");
        let model = self.options.model.to_string_lossy().into_owned();
        let paths =
            ["quantize", "--quiet", "--overwrite", "--hf-path", &model, "--mlx-path", &out.to_string_lossy()];
        let said = match self.mixbit(&[&paths[..], arguments].concat()) {
            Ok(said) => said,
            Err(error) if error.to_string().contains("cannot be reached") => return Ok(()),
            Err(error) => return Err(error),
        };
        let predicted = said.lines().find_map(|line| {
            line.strip_prefix("predicted KL divergence: ")?.split_whitespace().next()?.parse().ok()
        });
        self.score(name.to_owned(), &out, predicted)
    }

    fn score(&mut self, name: String, folder: &Path, predicted: Option<f64>) -> Result<()> {
        let (model, folder) = (self.options.model.to_string_lossy(), folder.to_string_lossy());
        let inspected: Value = serde_json::from_str(&self.mixbit(&["inspect", "--json", &folder])?)?;
        let length = self.options.sequence_length;
        let (most, length) = ((self.options.windows * length).to_string(), length.to_string());
        let data = self.options.data.to_string_lossy();
        let scores = self.mixbit(&[
            "eval",
            "--quiet",
            "--model",
            &folder,
            "--reference",
            &model,
            "--data",
            &data,
            "--sequence-length",
            &length,
            "--max-tokens",
            &most,
            "--json",
            "-",
        ])?;
        let scores: Value = serde_json::from_str(&scores)?;
        let bpw = inspected["bpw_quantized"].as_f64().context("inspect gave no bpw_quantized")?;
        self.rows.push(Row { name, bpw, predicted, scores });
        Ok(())
    }

    fn peers(&mut self) -> Result<()> {
        eprintln!("bench: mlx-lm (with mixbit's BLAS; minutes)");
        let out = self.work.join("peers");
        let mut command = Command::new(python::venv()?);
        command.arg(workspace::root().join("xtask/bench_quality.py"));
        command.arg("--model").arg(&self.options.model).arg("--text").arg(&self.options.calibration);
        command.args(["--samples", &self.options.samples.to_string()]);
        command.args(["--sequence-length", &self.options.sequence_length.to_string()]).arg("--out").arg(&out);
        preload::blas(&mut command)?;
        let said = process::output(&mut command)?;
        for line in said.lines().filter(|line| line.starts_with('{')) {
            let row: Value = serde_json::from_str(line)?;
            let name = format!("mlx-lm {}", row["name"].as_str().unwrap_or_default());
            match row["folder"].as_str() {
                Some(folder) => self.score(name, Path::new(folder), None)?,
                None => eprintln!("bench: {name} failed: {}", row["failed"].as_str().unwrap_or_default()),
            }
        }
        Ok(())
    }
}

fn text(name: &str, options: &Options, rows: &[Row]) -> String {
    let header = ["", "bpw", "KL", "stderr", "predicted", "PPL", "same top"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let number = |key: &str| row.scores[key].as_f64().unwrap_or(f64::NAN);
        cells.push(vec![
            row.name.clone(),
            format!("{:.3}", row.bpw),
            format!("{:.5}", number("kl_mean")),
            format!("{:.5}", number("kl_stderr")),
            row.predicted.map_or_else(String::new, |kl| format!("{kl:.5}")),
            format!("{:.3}", number("perplexity")),
            format!("{:.2} %", 100.0 * number("same_top")),
        ]);
    }
    let reference =
        rows.first().and_then(|row| row.scores["reference_perplexity"].as_f64()).unwrap_or(f64::NAN);
    format!(
        "{name}: calibrated on {} x {length} tokens, evaluated on {} x {length} others; float perplexity {reference:.3}\n\n{}",
        options.samples,
        options.windows,
        table::columns(&cells),
        length = options.sequence_length
    )
}

fn report(name: &str, rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| json!({ "name": row.name, "bpw": row.bpw, "predicted_kl": row.predicted, "scores": row.scores }))
        .collect();
    json!({ "bench": "quality", "model": name, "rows": rows })
}
