//! `cargo xtask bench eval`: tokens per second of computing a perplexity, beside mlx-lm's `perplexity`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::{smollm2, workspace};

use crate::floor::{self, Floor};
use crate::measure;
use crate::peers::{Programs, Who};
use crate::report::{Report, row};
use crate::{TrainedOptions, table, trained};

const LENGTH: usize = 256;

/// A model, its text, and the number of windows to evaluate.
struct Case {
    name: String,
    model: PathBuf,
    text: PathBuf,
    windows: usize,
}

/// Runs the bench.
pub fn run(options: &TrainedOptions) -> Result<Report> {
    let programs = Programs::ready()?;
    let floor = Floor::measure(&programs)?;
    let main = options.folders.main()?;
    let windows = if options.folders.texts.is_some() { 24 } else { 12 };
    let cases = [
        Case { name: main.name(), model: main.model, text: main.data, windows },
        Case {
            name: smollm2::NAME.to_owned(),
            model: smollm2::ensure()?,
            text: trained::built_in_text()?[1].clone(),
            windows: 2,
        },
    ];
    let mut report = Report {
        name: "eval",
        title: format!(
            "perplexity on windows of {LENGTH} tokens, float32; runs in turns: {}, median (lowest-highest)",
            options.common.runs
        ),
        ratios: vec![row(&["mixbit's speed over", "mlx-lm", "mlx-lm, same BLAS"])],
        rows: vec![row(&["model", "", "tokens per second"])],
        notes: vec![
            "Without loading the model. Floor: 2 operations per parameter and token at the rate of a large matrix \
             product."
                .to_owned(),
        ],
        facts: json!({}),
    };
    let mut facts = Vec::new();
    for case in &cases {
        let most = floor.flops / 2.0 / floor::parameters(&programs, &case.model)?;
        facts.push(case.measure(&programs, options.common.runs, most, &mut report)?);
    }
    report.facts = json!({ "runs": options.common.runs, "matmul_flops": floor.flops, "cases": facts });
    Ok(report)
}

impl Case {
    fn measure(&self, programs: &Programs, runs: u32, most: f64, report: &mut Report) -> Result<Value> {
        let mut rates: [Vec<f64>; 3] = Default::default();
        for run in 1..=runs {
            eprintln!("bench: {}, run {run} of {runs}", self.name);
            for (who, rates) in Who::ALL.into_iter().zip(&mut rates) {
                rates.push(self.rate(programs, who)?);
            }
        }
        let title = format!("{}, {} windows", self.name, self.windows);
        let ratio = |index: usize| format!("{:.1}x", table::median(&rates[2]) / table::median(&rates[index]));
        report.ratios.push(vec![title.clone(), ratio(0), ratio(1)]);
        for (who, rates) in Who::ALL.into_iter().zip(&rates) {
            report.rows.push(vec![title.clone(), who.name().to_owned(), table::spread(rates, 0)]);
        }
        report.rows.push(vec![title, "floor".to_owned(), format!("{most:.0}")]);
        let row = |(who, rates): (Who, &Vec<f64>)| json!({ "name": who.name(), "tokens_per_second": rates });
        let rows: Vec<Value> = Who::ALL.into_iter().zip(&rates).map(row).collect();
        Ok(json!({ "model": self.name, "floor_tokens_per_second": most, "rows": rows }))
    }

    fn rate(&self, programs: &Programs, who: Who) -> Result<f64> {
        let folder = workspace::root().join("bench-data");
        let (scores, log) = (folder.join("eval.json"), folder.join("eval.log"));
        measure::child(&self.command(programs, who, &scores)?, &log)?;
        let scores: Value = serde_json::from_str(&fs::read_to_string(&scores)?)?;
        scores["tokens_per_second"].as_f64().context("no tokens_per_second in the scores")
    }

    fn command(&self, programs: &Programs, who: Who, scores: &Path) -> Result<Command> {
        let length = LENGTH.to_string();
        let mut command = if who == Who::Mixbit {
            let mut command = programs.command(who)?;
            command
                .args(["eval", "--overwrite"])
                .args(["--max-tokens", &(self.windows * LENGTH).to_string()]);
            command
        } else {
            let mut command = programs.script(who, "bench_eval.py")?;
            command.args(["--windows", &self.windows.to_string()]);
            command
        };
        command.args(["--sequence-length", &length, "--model"]).arg(&self.model);
        command.arg("--data").arg(&self.text).arg("--json").arg(scores);
        Ok(command)
    }
}
