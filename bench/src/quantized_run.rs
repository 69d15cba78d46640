//! The part of `cargo xtask bench run` on quantized models: prompt, generation and memory beside llama.cpp's `llama-bench`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use xtask::workspace;

use crate::floor::Floor;
use crate::generate::{figure, prompt_ids};
use crate::llama_bench::{self, Work};
use crate::llama_cpp::{CMAKE_FLAGS, HEADER, LlamaPrograms};
use crate::peers::{Programs, Who};
use crate::quantized_models::{self, Model, Program, Subject};
use crate::report::{Report, Rows, row};
use crate::{measure, table};

const NEW_TOKENS: u32 = 64;
/// Tokens of the prompt where generation alone is of interest.
const FEW_TOKENS: u32 = 16;
/// Formats of mixbit and of llama.cpp whose figures are compared.
const PAIRS: [[&str; 2]; 7] = [
    ["float16", "F16"],
    ["4:32", "Q4_0"],
    ["4:32", "Q4_1"],
    ["4:64", "Q4_0"],
    ["4.5 bpw", "Q4_0"],
    ["8:32", "Q8_0"],
    ["8:64", "Q8_0"],
];

/// A model and what was measured with it.
struct Row {
    model: Model,
    /// Tokens of the prompt per second, of each run.
    prompt: Vec<f64>,
    /// Generated tokens per second, of each run.
    generation: Vec<f64>,
    /// Tokens per second, of each run, that are generated after the prompt.
    after_prompt: Vec<f64>,
    /// Peak memory in bytes, of each run.
    peak: Vec<f64>,
}

/// llama.cpp as it was built.
struct Peer {
    version: String,
    /// Model name of the processor, which `llama-bench` prints.
    cpu: String,
}

/// All that was measured.
struct Bench {
    subject: Subject,
    linear_parameters: f64,
    runs: u32,
    work: Work,
    floor: Floor,
    rows: Vec<Row>,
    /// `None` if llama.cpp cannot be built here.
    peer: Option<Peer>,
}

/// Options of `bench run`.
#[derive(Args, Clone)]
pub struct RunOptions {
    #[command(flatten)]
    pub common: crate::Options,
    /// The model beside llama.cpp
    #[arg(long, value_enum, default_value = "smollm2-135m")]
    model: Subject,
    /// Tokens of the prompt beside llama.cpp
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Measure only these formats beside llama.cpp, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(quantized_models::formats()))]
    formats: Vec<String>,
}

impl RunOptions {
    /// Returns the options that are used without any.
    pub fn new(common: crate::Options) -> Self {
        Self { common, model: Subject::Smollm2, prompt_tokens: 512, formats: Vec::new() }
    }

    /// Returns true if the run beside mlx-lm, which has a model and a prompt of its own, belongs to this.
    pub fn is_beside_mlx_lm(&self) -> bool {
        self.model == Subject::Smollm2 && self.prompt_tokens == 512 && self.formats.is_empty()
    }
}

/// Runs the bench.
pub fn run(options: &RunOptions) -> Result<Report> {
    let &RunOptions { common: crate::Options { runs, .. }, model: subject, prompt_tokens, .. } = options;
    let programs = Programs::ready()?;
    let llama = LlamaPrograms::ready()?;
    let floor = Floor::measure(&programs)?;
    let models = quantized_models::write(subject, &options.formats, &programs, llama.as_ref())?;
    let threads = std::thread::available_parallelism().context("cannot count the processors")?.get();
    let rows = models.into_iter().map(Row::new).collect();
    let peer = llama.as_ref().map(|llama| Peer { version: llama.version.clone(), cpu: String::new() });
    let work = Work { prompt_tokens, new_tokens: NEW_TOKENS, threads };
    let linear_parameters = subject.linear_parameters()?;
    let mut bench = Bench { subject, linear_parameters, runs, work, floor, rows, peer };
    for run in 1..=runs {
        eprintln!("bench: quantized models, run {run} of {runs}");
        bench.turn(&programs, llama.as_ref())?;
    }
    Ok(bench.report())
}

/// Returns the command that reads a prompt of so many tokens and generates; mixbit computes with all threads by itself.
fn mixbit_command(programs: &Programs, model: &Path, prompt_tokens: u32, new_tokens: u32) -> Result<Command> {
    let mut command = programs.command(Who::Mixbit)?;
    command.args(["run", "--ignore-eos", "--verbose", "--model"]).arg(model);
    command.args(["--prompt-tokens", &prompt_ids(prompt_tokens)]);
    command.args(["--max-tokens", &new_tokens.to_string()]);
    Ok(command)
}

impl Row {
    fn new(model: Model) -> Self {
        Self { model, prompt: Vec::new(), generation: Vec::new(), after_prompt: Vec::new(), peak: Vec::new() }
    }

    /// Runs mixbit with the prompt and without one.
    fn run_mixbit(&mut self, programs: &Programs, work: &Work, log: &Path) -> Result<()> {
        let rates = |prompt_tokens| -> Result<([f64; 2], f64)> {
            let command = mixbit_command(programs, &self.model.path, prompt_tokens, work.new_tokens)?;
            let peak = measure::child(&command, log)?.peak;
            let output = fs::read_to_string(log)?;
            let rate =
                |what: &str, tokens| figure(&output, &format!("{what}: {tokens} tokens, "), " tokens/s");
            Ok(([rate("prompt", prompt_tokens)?, rate("generation", work.new_tokens)?], peak))
        };
        let ([prompt, after_prompt], peak) = rates(work.prompt_tokens)?;
        let ([_, generation], _) = rates(FEW_TOKENS)?;
        self.peak.push(peak);
        self.prompt.push(prompt);
        self.after_prompt.push(after_prompt);
        self.generation.push(generation);
        Ok(())
    }

    fn megabytes(&self) -> Vec<f64> {
        self.peak.iter().map(|peak| peak / 1e6).collect()
    }

    /// Returns medians of the speeds of the prompt, of generation and of generation after the prompt, and of peak memory; and
    /// the bytes of the file.
    fn medians(&self) -> [f64; 5] {
        let [prompt, generation, after_prompt, peak] =
            [&self.prompt, &self.generation, &self.after_prompt, &self.peak]
                .map(|samples| table::median(samples));
        [prompt, generation, after_prompt, peak, self.model.bytes as f64]
    }

    fn json(&self) -> Value {
        json!({
            "program": self.model.program.name(),
            "format": self.model.format,
            "file_bytes": self.model.bytes,
            "prompt_tokens_per_second": self.prompt,
            "generation_tokens_per_second": self.generation,
            "generation_after_prompt_tokens_per_second": self.after_prompt,
            "peak_bytes": self.peak
        })
    }
}

impl Bench {
    /// Runs every model once.
    fn turn(&mut self, programs: &Programs, llama: Option<&LlamaPrograms>) -> Result<()> {
        let log = workspace::root().join("bench-data/run.log");
        let Self { rows, work, peer, .. } = self;
        for row in rows {
            if let (Program::LlamaCpp, Some(llama), Some(peer)) = (row.model.program, llama, &mut *peer) {
                let command = llama_bench::command(llama, &row.model.path, work);
                row.peak.push(measure::child(&command, &log)?.peak);
                let figures = llama_bench::figures(&fs::read_to_string(&log)?, work)?;
                row.prompt.push(figures.prompt);
                row.generation.push(figures.generation);
                peer.cpu = figures.cpu;
                measure::child(&llama_bench::command_after_prompt(llama, &row.model.path, work), &log)?;
                row.after_prompt.push(llama_bench::generation(&fs::read_to_string(&log)?, work)?);
            } else {
                row.run_mixbit(programs, work, &log)?;
            }
        }
        Ok(())
    }

    fn row(&self, program: Program, format: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.model.program == program && row.model.format == format)
    }

    /// Returns the table of mixbit's figures over llama.cpp's; only its header without llama.cpp.
    fn ratios(&self) -> Rows {
        let header =
            ["mixbit / llama.cpp", "prompt", "generation", "after the prompt", "peak memory", "file"];
        let mut lines = vec![row(&header)];
        for [ours, theirs] in PAIRS {
            let rows = self.row(Program::Mixbit, ours).zip(self.row(Program::LlamaCpp, theirs));
            if let Some((mixbit, llama)) = rows {
                let ratios =
                    std::iter::zip(mixbit.medians(), llama.medians()).map(|(a, b)| format!("{:.2}", a / b));
                lines.push([format!("{ours} / {theirs}")].into_iter().chain(ratios).collect());
            }
        }
        lines
    }

    /// Returns the table of what was measured, floors beside the rates.
    fn lines(&self) -> Rows {
        let header = [
            "prompt, tokens/s",
            "floor",
            "generation, tokens/s",
            "floor",
            "after the prompt",
            "peak MB",
            "file MB",
        ];
        let mut lines = vec![[row(&["program and format"]), row(&header)].concat()];
        for row in &self.rows {
            let bytes = row.model.bytes as f64;
            lines.push(vec![
                format!("{} {}", row.model.program.name(), row.model.format),
                table::spread(&row.prompt, 1),
                format!("{:.0}", self.floor.flops / (2.0 * self.linear_parameters)),
                table::spread(&row.generation, 1),
                format!("{:.0}", self.floor.bandwidth / bytes),
                table::spread(&row.after_prompt, 1),
                table::spread(&row.megabytes(), 0),
                format!("{:.1}", bytes / 1e6),
            ]);
        }
        lines
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "Floors: the prompt's operations at the rate of a large float32 matrix product, {:.0} GFLOP/s, which \
             products of integers can exceed; reading the file once per token at {:.1} GB/s.",
            self.floor.flops / 1e9,
            self.floor.bandwidth / 1e9
        )];
        notes.push(match &self.peer {
            None => "Missing: llama.cpp, which does not build here".to_owned(),
            Some(peer) => format!(
                "llama.cpp is that of llama-cpp-python {}, built with {} (and {HEADER}), on: {}. All its tensors have one type \
                 (`--pure`). llama-bench runs once before it measures; mixbit's first run counts. llama.cpp generates from \
                 nothing or after the prompt, mixbit after {FEW_TOKENS} tokens or after the prompt. llama.cpp's keys and \
                 values are float16.",
                peer.version,
                CMAKE_FLAGS.join(" "),
                peer.cpu
            ),
        });
        notes
    }

    fn facts(&self) -> Value {
        let peer = self.peer.as_ref().map(
            |peer| json!({ "llama_cpp_python": peer.version, "cmake_flags": CMAKE_FLAGS, "header": HEADER, "cpu": peer.cpu }),
        );
        json!({
            "runs": self.runs,
            "threads": self.work.threads,
            "matmul_flops": self.floor.flops,
            "bandwidth_bytes": self.floor.bandwidth,
            "llama_cpp": peer,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>()
        })
    }

    fn report(&self) -> Report {
        Report {
            name: "run, beside llama.cpp",
            title: format!(
                "run {}, {} tokens of prompt, {NEW_TOKENS} generated, {} threads; runs in turns: {}, median \
                 (lowest-highest)",
                self.subject.name(),
                self.work.prompt_tokens,
                self.work.threads,
                self.runs
            ),
            ratios: self.ratios(),
            rows: self.lines(),
            notes: self.notes(),
            facts: self.facts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(program: Program, format: &'static str, prompt: f64, generation: f64, bytes: u64) -> Row {
        let model = Model { program, format, path: format.into(), bytes };
        Row {
            model,
            prompt: vec![prompt],
            generation: vec![generation],
            after_prompt: vec![generation / 2.0],
            peak: vec![2e6],
        }
    }

    fn bench(rows: Vec<Row>, peer: Option<Peer>) -> Bench {
        let work = Work { prompt_tokens: 512, new_tokens: NEW_TOKENS, threads: 2 };
        let floor = Floor { flops: 1e9, bandwidth: 1e9 };
        Bench { subject: Subject::Smollm2, linear_parameters: 1.25e8, runs: 1, work, floor, rows, peer }
    }

    #[test]
    fn ratios_are_of_paired_formats() {
        let rows = vec![
            measured(Program::Mixbit, "4:32", 30.0, 20.0, 1_000_000),
            measured(Program::LlamaCpp, "Q4_0", 10.0, 40.0, 2_000_000),
            measured(Program::LlamaCpp, "Q8_0", 10.0, 10.0, 4_000_000),
        ];
        let peer = Peer { version: "1.2.3".to_owned(), cpu: "a processor".to_owned() };
        let report = bench(rows, Some(peer)).report();
        assert_eq!(report.ratios[1..], [["4:32 / Q4_0", "3.00", "0.50", "0.50", "1.00", "0.50"]]);
        assert_eq!(report.rows[1], ["mixbit 4:32", "30.0", "4", "20.0", "1000", "10.0", "2", "1.0"]);
        let text = report.text();
        assert!(["1.2.3", "a processor", "GGML_NATIVE=ON"].iter().all(|fact| text.contains(fact)), "{text}");
    }

    #[test]
    fn without_llama_cpp_there_are_no_ratios() {
        let report = bench(vec![measured(Program::Mixbit, "4:32", 30.0, 20.0, 1_000_000)], None).report();
        assert_eq!((report.ratios.len(), report.rows.len()), (1, 2));
        assert!(report.text().contains("Missing: llama.cpp"));
    }
}
