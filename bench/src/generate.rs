//! `cargo xtask bench run`: loading, reading a prompt and generating.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::{smollm2, workspace};

use crate::floor::Floor;
use crate::peers::{Programs, Who};
use crate::report::{Report, row};
use crate::{Options, measure, table};

const PROMPT_TOKENS: u32 = 256;
const NEW_TOKENS: u32 = 64;

/// Programs in the order they run: which one, the type that mlx-lm's weights are cast to, the name in tables. mlx-lm computes
/// in the file's float16, which is slow on processors without Apple's units.
const STEPS: [(Who, Option<&str>, &str); 4] = [
    (Who::MlxLm, None, "mlx-lm"),
    (Who::MlxLm, Some("float32"), "mlx-lm, weights made float32"),
    (Who::MlxLmBlas, Some("float32"), "the same, same BLAS"),
    (Who::Mixbit, None, "mixbit"),
];
const MIXBIT: usize = 3;

/// Figures that each run of a program printed.
#[derive(Default)]
struct Rates {
    load: Vec<f64>,
    prompt: Vec<f64>,
    generation: Vec<f64>,
}

/// Runs the bench.
pub fn run(options: Options) -> Result<Report> {
    let programs = Programs::ready()?;
    let floor = Floor::measure(&programs)?;
    let model = smollm2::ensure()?;
    let log = workspace::root().join("bench-data/run.log");
    let mut rows: [Rates; 4] = Default::default();
    for run in 1..=options.runs {
        eprintln!("bench: run {run} of {}", options.runs);
        for ((who, dtype, _), rates) in STEPS.into_iter().zip(&mut rows) {
            measure::child(&command(&programs, who, dtype, &model)?, &log)?;
            let log_text = fs::read_to_string(&log)?;
            rates.load.push(figure(&log_text, "load time: ", " s")?);
            rates.prompt.push(figure(&log_text, &format!("prompt: {PROMPT_TOKENS} tokens, "), " tokens/s")?);
            rates.generation.push(figure(
                &log_text,
                &format!("generation: {NEW_TOKENS} tokens, "),
                " tokens/s",
            )?);
        }
    }
    Ok(report(options.runs, &floor, &rows))
}

fn command(programs: &Programs, who: Who, dtype: Option<&str>, model: &Path) -> Result<Command> {
    let mut command = if who == Who::Mixbit {
        let mut command = programs.command(who)?;
        command.args(["run", "--ignore-eos", "--verbose"]);
        command
    } else {
        programs.script(who, "bench_run.py")?
    };
    command.args(dtype.iter().flat_map(|dtype| ["--dtype", dtype]));
    command.arg("--model").arg(model).args(["--prompt-tokens", &prompt_ids(PROMPT_TOKENS)]);
    command.args(["--max-tokens", &NEW_TOKENS.to_string()]);
    Ok(command)
}

/// Returns token ids for `--prompt-tokens`. Any will do, as long as the tokenizer knows them and all programs get the same.
pub fn prompt_ids(count: u32) -> String {
    (0..count).map(|at| (16 + at * 37 % 1000).to_string()).collect::<Vec<_>>().join(",")
}

/// Returns the number between `before` and `after` on the last line that has both.
pub fn figure(output: &str, before: &str, after: &str) -> Result<f64> {
    output
        .lines()
        .rev()
        .find_map(|line| line.split_once(before)?.1.split_once(after)?.0.trim().parse().ok())
        .with_context(|| format!("no `{before}..{after}` in:\n{output}"))
}

/// Returns the medians of load time, prompt speed and generation speed.
fn medians(rates: &Rates) -> [f64; 3] {
    [&rates.load, &rates.prompt, &rates.generation].map(|all| table::median(all))
}

/// Returns the table of mixbit's speed over that of the others.
fn ratios(rows: &[Rates; 4]) -> Vec<Vec<String>> {
    let [our_load, our_prompt, our_generation] = medians(&rows[MIXBIT]);
    let mut lines = vec![row(&["mixbit's speed over", "load", "prompt", "generation"])];
    for (index, ((.., name), rates)) in STEPS.into_iter().zip(rows).enumerate() {
        if index != MIXBIT {
            let [load, prompt, generation] = medians(rates);
            let speeds = [load / our_load, our_prompt / prompt, our_generation / generation];
            let speeds = speeds.map(|speed| format!("{speed:.1}x"));
            lines.push([vec![name.to_owned()], speeds.to_vec()].concat());
        }
    }
    lines
}

/// Returns the table of what was measured, with the floor below.
fn lines(floor: &Floor, rows: &[Rates; 4]) -> Vec<Vec<String>> {
    let mut lines = vec![row(&["", "load, seconds", "prompt, tokens/s", "generation, tokens/s"])];
    for ((.., name), rates) in STEPS.into_iter().zip(rows) {
        lines.push(vec![
            name.to_owned(),
            table::spread(&rates.load, 2),
            table::spread(&rates.prompt, 1),
            table::spread(&rates.generation, 1),
        ]);
    }
    // Reading the float16 file; two operations per weight and token; reading all linear weights in float32 per token.
    let [load, prompt, generation] = [
        2.0 * smollm2::PARAMETERS / floor.bandwidth,
        floor.flops / (2.0 * smollm2::LINEAR),
        floor.bandwidth / (4.0 * smollm2::LINEAR),
    ];
    lines.push(vec![
        "floor".to_owned(),
        format!("{load:.2}"),
        format!("{prompt:.0}"),
        format!("{generation:.0}"),
    ]);
    lines
}

/// Returns the facts of the report, as JSON.
fn facts(runs: u32, floor: &Floor, rows: &[Rates; 4]) -> Value {
    let json_row = |((.., name), rates): ((Who, Option<&str>, &str), &Rates)| {
        json!({
            "name": name,
            "load_seconds": rates.load,
            "prompt_tokens_per_second": rates.prompt,
            "generation_tokens_per_second": rates.generation
        })
    };
    json!({
        "runs": runs,
        "parameters": smollm2::PARAMETERS,
        "matmul_flops": floor.flops,
        "bandwidth_bytes": floor.bandwidth,
        "rows": STEPS.into_iter().zip(rows).map(json_row).collect::<Vec<_>>()
    })
}

fn report(runs: u32, floor: &Floor, rows: &[Rates; 4]) -> Report {
    Report {
        name: "run",
        title: format!(
            "run {}, float16, {PROMPT_TOKENS} tokens of prompt, {NEW_TOKENS} generated; runs in turns: {runs}, median \
             (lowest-highest)",
            smollm2::NAME
        ),
        ratios: ratios(rows),
        rows: lines(floor, rows),
        notes: vec![
            "Floors: reading the file from memory; the prompt's operations at the rate of a large matrix product; \
             reading the float32 weights once per token."
                .to_owned(),
        ],
        facts: facts(runs, floor, rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read() -> Result<()> {
        let log_text = "noise\nprompt: 256 tokens, 1234.5 tokens/s\npeak memory: 1.2 GB, load time: 0.25 s\n";
        assert!((figure(log_text, "prompt: 256 tokens, ", " tokens/s")? - 1234.5).abs() < 1e-9);
        assert!((figure(log_text, "load time: ", " s")? - 0.25).abs() < 1e-9);
        assert!(figure("nothing", "load time: ", " s").is_err());
        Ok(())
    }

    #[test]
    fn ratios_say_how_much_faster_mixbit_is() {
        let rates = |load, rate| Rates { load: vec![load], prompt: vec![rate], generation: vec![rate] };
        let rows = [rates(2.0, 1.0), rates(2.0, 2.0), rates(2.0, 5.0), rates(1.0, 10.0)];
        let report = report(1, &Floor { flops: 1e9, bandwidth: 1e9 }, &rows);
        assert_eq!(report.ratios[1], ["mlx-lm", "2.0x", "10.0x", "10.0x"]);
    }
}
