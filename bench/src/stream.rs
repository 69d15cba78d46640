//! `cargo xtask bench stream`: a text of many times the context, with and without its first tokens kept (StreamingLLM, arXiv
//! 2309.17453), and generation past the context.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::{process, smollm2, workspace};

use crate::Options;
use crate::generate::figure;
use crate::measure;
use crate::peers::{Programs, Who};
use crate::report::{Report, row};
use crate::table;

const CONTEXT: usize = 256;
/// Lengths of the text in tokens; the last is ten contexts.
const LENGTHS: [usize; 2] = [512, 10 * CONTEXT];
const SINKS: [usize; 3] = [0, 1, 4];
/// Numbers of tokens to generate.
const GENERATED: [usize; 2] = [64, 640];

/// Runs the bench.
pub fn run(options: Options) -> Result<Report> {
    let programs = Programs::ready()?;
    let model = smollm2::ensure()?;
    let text = one_document()?;
    let mut report = Report {
        name: "stream",
        title: format!(
            "{}: perplexity of a text through a cache of {CONTEXT} tokens, and generation through one of 64; runs: {}, \
             median (lowest-highest)",
            smollm2::NAME,
            options.runs
        ),
        ratios: vec![row(&["tokens", "first tokens kept", "perplexity", "forgotten", "cache, MB"])],
        rows: vec![row(&["tokens generated", "tokens per second"])],
        notes: Vec::new(),
        facts: json!({}),
    };
    let mut facts = Vec::new();
    for length in LENGTHS {
        for sinks in SINKS {
            let mut command = programs.command(Who::Mixbit)?;
            command.arg("eval").arg("--model").arg(&model).arg("--data").arg(&text);
            command.args(["--json", "-", "--stream", "--context-size", &CONTEXT.to_string()]);
            command.args(["--max-tokens", &length.to_string(), "--num-sink-tokens", &sinks.to_string()]);
            let figures: Value = serde_json::from_str(&process::output(&mut command)?)?;
            let number =
                |key: &str| figures[key].as_f64().with_context(|| format!("no {key} in eval's JSON"));
            report.ratios.push(vec![
                length.to_string(),
                sinks.to_string(),
                format!("{:.2}", number("perplexity")?),
                format!("{:.0}", number("tokens_forgotten")?),
                format!("{:.1}", number("cache_bytes")? / 1e6),
            ]);
            facts.push(json!({ "tokens": length, "sinks": sinks, "figures": figures }));
        }
    }
    let mut rates = Vec::new();
    for count in GENERATED {
        let all: Vec<f64> =
            (0..options.runs).map(|_| generation_rate(&programs, &model, count)).collect::<Result<_>>()?;
        report.rows.push(vec![count.to_string(), table::spread(&all, 1)]);
        rates.push(json!({ "tokens": count, "tokens_per_second": all }));
    }
    report.facts = json!({ "runs": options.runs, "streams": facts, "generation": rates });
    Ok(report)
}

fn generation_rate(programs: &Programs, model: &Path, count: usize) -> Result<f64> {
    let log = workspace::root().join("bench-data/stream.log");
    let mut command = programs.command(Who::Mixbit)?;
    command.args([
        "run",
        "--ignore-eos",
        "--verbose",
        "--context-size",
        "64",
        "--prompt",
        "Tell me a story.",
    ]);
    command.arg("--model").arg(model).args(["--max-tokens", &count.to_string()]);
    measure::child(&command, &log)?;
    figure(&fs::read_to_string(&log)?, &format!("generation: {count} tokens, "), " tokens/s")
}

/// Writes mixbit's own text without the separators, and returns its path.
fn one_document() -> Result<std::path::PathBuf> {
    let root = workspace::root();
    let text = fs::read_to_string(root.join("src/text/corpus/default.txt"))?;
    let path = root.join("bench-data/long.txt");
    fs::write(&path, text.replace("<|endoftext|>", ""))?;
    Ok(path)
}
