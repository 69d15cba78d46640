//! `cargo xtask bench run`: tokens per second of reading a prompt and of generating.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Options, checkpoint, measure, table};
use crate::{python, workspace};

const PROMPT_TOKENS: u32 = 256;
const NEW_TOKENS: u32 = 64;
const MIXBIT: usize = 2;
/// mlx-lm twice: it computes in the file's float16, for which processors without Apple's units are slow.
const NAMES: [&str; 3] = ["mlx-lm", "mlx-lm, weights made float32", "mixbit"];

/// Tokens per second of each run.
#[derive(Default)]
struct Rates {
    prompt: Vec<f64>,
    generation: Vec<f64>,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let python = python::venv()?;
    let mixbit = root.join(workspace::release()?);
    let checkpoint = checkpoint::llama_125m();
    let model = checkpoint.ensure()?;
    let log = root.join("bench-data/run.log");
    let mut rows: [Rates; 3] = Default::default();
    for run in 1..=options.runs {
        eprintln!("bench: run {run} of {}", options.runs);
        for (index, rates) in rows.iter_mut().enumerate() {
            let mut command = command(index, &root, &python, &mixbit, &model);
            measure::child(&mut command, &log)?;
            let said = fs::read_to_string(&log)?;
            rates.prompt.push(rate(&said, "prompt")?);
            rates.generation.push(rate(&said, "generation")?);
        }
    }
    if options.json {
        println!("{:#}", report(checkpoint.parameters(), options.runs, &rows));
    } else {
        print!("{}", text(checkpoint.parameters(), options.runs, &rows));
    }
    Ok(())
}

fn command(index: usize, root: &Path, python: &PathBuf, mixbit: &PathBuf, model: &Path) -> Command {
    // Any ids will do, as long as the tokenizer knows them and both programs get the same.
    let prompt: Vec<String> = (0..PROMPT_TOKENS).map(|at| (16 + at * 37 % 1000).to_string()).collect();
    let mut command = if index == MIXBIT {
        let mut command = Command::new(mixbit);
        command.args(["run", "--ignore-eos", "--verbose"]);
        command
    } else {
        let mut command = Command::new(python);
        command.arg(root.join("xtask/bench_run.py"));
        command
    };
    if index == 1 {
        command.args(["--dtype", "float32"]);
    }
    command.arg("--model").arg(model).args(["--prompt-tokens", &prompt.join(",")]);
    command.args(["--max-tokens", &NEW_TOKENS.to_string()]).env("HF_HUB_OFFLINE", "1");
    command
}

/// Reads `prompt: 256 tokens, 1234.5 tokens/s`.
fn rate(said: &str, what: &str) -> Result<f64> {
    said.lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix(what)?.strip_prefix(':')?.split_once(','))
        .and_then(|(_, rate)| rate.trim().strip_suffix("tokens/s")?.trim().parse().ok())
        .with_context(|| format!("no line `{what}: N tokens, R tokens/s` in:\n{said}"))
}

fn ratios(rows: &[Rates; 3], index: usize) -> (f64, f64) {
    let of = |rates: fn(&Rates) -> &[f64]| {
        table::median(rates(&rows[MIXBIT])) / table::median(rates(&rows[index]))
    };
    (of(|rates| &rates.prompt), of(|rates| &rates.generation))
}

fn text(parameters: usize, runs: u32, rows: &[Rates; 3]) -> String {
    let header = |first: &str| vec![first.to_owned(), "prompt".to_owned(), "generation".to_owned()];
    let mut above = vec![header("mixbit's speed over")];
    let mut below = vec![header("tokens per second")];
    for (index, (name, rates)) in NAMES.iter().zip(rows).enumerate() {
        if index != MIXBIT {
            let (prompt, generation) = ratios(rows, index);
            above.push(vec![(*name).to_owned(), format!("{prompt:.2}x"), format!("{generation:.2}x")]);
        }
        below.push(vec![
            (*name).to_owned(),
            table::spread(&rates.prompt, 1),
            table::spread(&rates.generation, 1),
        ]);
    }
    format!(
        "run a Llama of {:.0} M float16 parameters, {PROMPT_TOKENS} tokens of prompt, {NEW_TOKENS} generated; runs in turns: {runs}, median (lowest-highest)\n\n{}\n{}",
        parameters as f64 / 1e6,
        table::columns(&above),
        table::columns(&below)
    )
}

fn report(parameters: usize, runs: u32, rows: &[Rates; 3]) -> Value {
    let row = |(index, name): (usize, &&str)| {
        let (prompt, generation) = ratios(rows, index);
        json!({
            "name": name,
            "prompt_tokens_per_second": rows[index].prompt,
            "generation_tokens_per_second": rows[index].generation,
            "mixbit_prompt_ratio": prompt,
            "mixbit_generation_ratio": generation
        })
    };
    json!({
        "bench": "run",
        "parameters": parameters,
        "prompt_tokens": PROMPT_TOKENS,
        "generated_tokens": NEW_TOKENS,
        "runs": runs,
        "rows": NAMES.iter().enumerate().map(row).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() -> Result<()> {
        let said = "noise\nprompt: 256 tokens, 1234.5 tokens/s\ngeneration: 64 tokens, 32.0 tokens/s\n";
        assert!((rate(said, "prompt")? - 1234.5).abs() < 1e-9);
        assert!((rate(said, "generation")? - 32.0).abs() < 1e-9);
        assert!(rate("nothing", "prompt").is_err());
        Ok(())
    }
}
