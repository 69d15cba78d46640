//! `cargo xtask bench quality`: KL divergence and perplexity on held-out text, mixbit's results and its peers' side by side.
//!
//! mlx-lm's and AutoRound's results are scored by `mixbit eval`, whose logits equal mlx-lm's (`cargo xtask parity`);
//! llama.cpp's by its own logits on the same windows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use xtask::{process, workspace};

use crate::peers::{Programs, Who};
use crate::report::{Report, row};
use crate::trained::{Folders, Trained};
use crate::{TrainedOptions, auto_round, llama_cpp};

const TARGETS: [f64; 7] = [2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0];
const BITS: [u32; 5] = [2, 3, 4, 5, 6];
/// Ways to quantize; the last three are GPTQ with refinement, distillation of scales, or of scales and codes after it.
const WAYS: [&str; 6] = ["rtn", "search", "gptq", "refined", "distilled", "learned"];

/// Options of the bench.
#[derive(Args)]
pub struct Options {
    /// One trained model, instead of the bundled one and those of --models
    #[arg(long, requires = "calibration", requires = "data", conflicts_with = "models")]
    model: Option<PathBuf>,
    /// Text to calibrate on
    #[arg(long, requires = "model")]
    calibration: Option<PathBuf>,
    /// Text to evaluate on
    #[arg(long, requires = "model")]
    data: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
    /// Calibration sequences
    #[arg(long, default_value_t = 48)]
    samples: usize,
    /// Their length, and that of evaluation windows
    #[arg(long, default_value_t = 256)]
    sequence_length: usize,
    /// Evaluation windows
    #[arg(long, default_value_t = 24)]
    windows: usize,
    /// Rounds of refinement after GPTQ; 0 leaves it out
    #[arg(long, default_value_t = 2)]
    refine: usize,
    /// Steps of distillation after GPTQ; 0 leaves it out
    #[arg(long, default_value_t = 150)]
    distill: usize,
    /// Steps in which codes learn after GPTQ; 0 leaves it out
    #[arg(long, default_value_t = 300)]
    learn: usize,
    /// Calibration sequences from which codes learn
    #[arg(long, default_value_t = 600)]
    learn_samples: usize,
    /// Ways to quantize, of rtn, search, gptq, refined, distilled and learned [default: all]
    #[arg(long, value_delimiter = ',', value_parser = WAYS)]
    ways: Vec<String>,
    /// Bits per weight to choose bits for [default: 2.5 to 6.0, and none if --bits is given]
    #[arg(long, value_delimiter = ',')]
    targets: Vec<f64>,
    /// Bits of all layers [default: 2 to 6, and none if --targets is given]
    #[arg(long, value_delimiter = ',')]
    bits: Vec<u32>,
    /// AutoRound too, which takes hours on a CPU; an environment of some gigabytes is installed for it
    #[arg(long)]
    auto_round: bool,
    /// Python that has AutoRound, in place of that environment
    #[arg(long, value_name = "PYTHON", requires = "auto_round")]
    auto_round_python: Option<PathBuf>,
    /// AutoRound's results, by their names in bench/peers/bench_auto_round.py [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "auto_round")]
    auto_round_results: Vec<String>,
    /// Leave mlx-lm and llama.cpp out
    #[arg(long)]
    no_peers: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// Returns the usual amounts, for the folders of `options`.
    pub fn from_trained(options: &TrainedOptions) -> Self {
        Self {
            model: None,
            calibration: None,
            data: None,
            folders: options.folders.clone(),
            samples: 48,
            sequence_length: 256,
            windows: 24,
            refine: 2,
            distill: 150,
            learn: 300,
            learn_samples: 600,
            ways: Vec::new(),
            targets: Vec::new(),
            bits: Vec::new(),
            auto_round: false,
            auto_round_python: None,
            auto_round_results: Vec::new(),
            no_peers: false,
            json: options.common.json,
        }
    }

    /// Returns the bits of all layers, and the bits per weight to choose bits for.
    fn sizes(&self) -> (&[u32], &[f64]) {
        if self.bits.is_empty() && self.targets.is_empty() {
            return (&BITS, &TARGETS);
        }
        (&self.bits, &self.targets)
    }

    fn models(&self) -> Result<Vec<Trained>> {
        match (&self.model, &self.calibration, &self.data) {
            (Some(model), Some(calibration), Some(data)) => Ok(vec![Trained {
                model: model.clone(),
                calibration: calibration.clone(),
                data: data.clone(),
            }]),
            _ => self.folders.all(),
        }
    }
}

/// One quantized model.
struct Row {
    name: String,
    peer: bool,
    bpw: f64,
    predicted: Option<f64>,
    scores: Value,
}

struct Bench<'a> {
    options: &'a Options,
    trained: &'a Trained,
    programs: Programs,
    /// Python that has AutoRound, if that is wanted.
    auto_round: Option<PathBuf>,
    work: PathBuf,
    rows: Vec<Row>,
    missing: Vec<String>,
}

/// Runs the bench; one report per model.
pub fn run(options: &Options) -> Result<Vec<Report>> {
    options.models()?.iter().map(|trained| on(options, trained)).collect()
}

fn on(options: &Options, trained: &Trained) -> Result<Report> {
    let work = workspace::root().join("bench-data/quality");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let programs = Programs::ready()?;
    let python = || auto_round::python(options.auto_round_python.as_deref());
    let auto_round = options.auto_round.then(python).transpose()?;
    let mut bench =
        Bench { options, trained, programs, auto_round, work, rows: Vec::new(), missing: Vec::new() };
    bench.ours()?;
    if !options.no_peers {
        bench.mlx_lm()?;
        bench.llama_cpp()?;
    }
    bench.auto_round()?;
    bench.rows.sort_by(|a, b| a.bpw.total_cmp(&b.bpw));
    Ok(bench.report())
}

impl Bench<'_> {
    fn mixbit(&self, arguments: &[&str]) -> Result<String> {
        process::output(self.programs.command(Who::Mixbit)?.args(arguments))
    }

    fn ours(&mut self) -> Result<()> {
        eprintln!("bench: {}, mixbit", self.trained.name());
        for way in WAYS {
            if self.options.ways.is_empty() || self.options.ways.iter().any(|wanted| wanted == way) {
                self.way(way)?;
            }
        }
        Ok(())
    }

    /// Quantizes in a `way`, at all bits and sizes.
    fn way(&mut self, way: &str) -> Result<()> {
        let Options { refine, distill, learn, samples, learn_samples, .. } = *self.options;
        let [refine, distill, learn] = [refine, distill, learn].map(|count| count.to_string());
        let (rounding, samples, after) = match way {
            "refined" => ("gptq", samples, &["--refine", &refine][..]),
            "distilled" => ("gptq", samples, &["--distill", &distill][..]),
            "learned" => ("gptq", learn_samples, &["--distill", &learn, "--learn", "codes"][..]),
            _ => (way, samples, &[][..]),
        };
        if after.get(1) == Some(&"0") {
            return Ok(());
        }
        // With bits fixed or a table given, rounding to nearest has no use for a text.
        let text = if way == "rtn" { Vec::new() } else { self.text(samples) };
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        let round = [&["--no-eval", "--rounding", rounding], &text[..], after].concat();
        // Where all bits are fixed there are none to move.
        let (bits, targets) = self.options.sizes();
        let uniform = if way == "refined" { &[][..] } else { bits };
        for bits in uniform {
            let bits = bits.to_string();
            self.quantized(&format!("{way}, --bits {bits}"), &[&["--bits", &bits], &round[..]].concat())?;
        }
        let table = if targets.is_empty() { String::new() } else { self.table(rounding)? };
        for target in targets {
            let target = printed(*target);
            let size = ["--sensitivities", &table, "--target-bpw", &target];
            self.quantized(&format!("{way}, --target-bpw {target}"), &[&size, &round[..]].concat())?;
        }
        Ok(())
    }

    /// Returns the path of the sensitivities for a `rounding`, measured where they are not there yet.
    fn table(&self, rounding: &str) -> Result<String> {
        let path = self.work.join(format!("{rounding}.json"));
        let (table, model) = (path.to_string_lossy().into_owned(), self.trained.model.to_string_lossy());
        if !path.exists() {
            let text = self.text(self.options.samples);
            let text: Vec<&str> = text.iter().map(String::as_str).collect();
            let measured = ["analyze", "--quiet", "--model", &model, "--rounding", rounding, "--out", &table];
            self.mixbit(&[&measured, &text[..]].concat())?;
        }
        Ok(table)
    }

    /// Returns the flags of so many calibration sequences.
    fn text(&self, samples: usize) -> Vec<String> {
        let length = self.options.sequence_length.to_string();
        let calibration = self.trained.calibration.to_string_lossy().into_owned();
        let flags = ["--samples", &samples.to_string(), "--sequence-length", &length, "--calibration"];
        flags.into_iter().map(str::to_owned).chain([calibration]).collect()
    }

    fn quantized(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let out = self.work.join("out");
        let model = self.trained.model.to_string_lossy();
        let paths =
            ["quantize", "--quiet", "--overwrite", "--hf-path", &model, "--mlx-path", &out.to_string_lossy()];
        let printed = match self.mixbit(&[&paths[..], arguments].concat()) {
            Ok(printed) => printed,
            // A row of the table, as a peer's failure is.
            Err(error) if error.to_string().contains("cannot be reached") => {
                self.missing.push(format!("{name}: the size cannot be reached"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let predicted = printed.lines().find_map(|line| {
            line.strip_prefix("predicted KL divergence: ")?.split_whitespace().next()?.parse().ok()
        });
        self.score(name.to_owned(), false, &out, predicted)
    }

    fn score(&mut self, name: String, peer: bool, folder: &Path, predicted: Option<f64>) -> Result<()> {
        let folder = folder.to_string_lossy();
        let inspected: Value = serde_json::from_str(&self.mixbit(&["inspect", "--json", &folder])?)?;
        let scores = self.evaluate(Path::new(&*folder), &[])?;
        let bpw = inspected["bpw_quantized"].as_f64().context("inspect gave no bpw_quantized")?;
        let row = Row { name, peer, bpw, predicted, scores };
        eprintln!("bench: {}: {bpw:.3} bpw, KL divergence {:.5}", row.name, row.kl());
        self.rows.push(row);
        Ok(())
    }

    /// Evaluates a model folder against the float model; returns the scores.
    fn evaluate(&self, folder: &Path, further: &[&str]) -> Result<Value> {
        let length = self.options.sequence_length;
        let mut command = self.programs.command(Who::Mixbit)?;
        command.args(["eval", "--quiet", "--json", "-", "--model"]).arg(folder);
        command.arg("--reference").arg(&self.trained.model).arg("--data").arg(&self.trained.data);
        command.args(["--sequence-length", &length.to_string()]);
        command.args(["--max-tokens", &(self.options.windows * length).to_string()]).args(further);
        Ok(serde_json::from_str(&process::output(&mut command)?)?)
    }

    fn mlx_lm(&mut self) -> Result<()> {
        eprintln!("bench: {}, mlx-lm (with mixbit's BLAS; minutes)", self.trained.name());
        let mut command = self.programs.script(Who::MlxLmBlas, "bench_quality.py")?;
        self.folder_rows("mlx-lm", &mut command)
    }

    fn auto_round(&mut self) -> Result<()> {
        let Some(python) = &self.auto_round else { return Ok(()) };
        let mut command = auto_round::script(python);
        if !self.options.auto_round_results.is_empty() {
            command.arg("--only").args(&self.options.auto_round_results);
        }
        eprintln!("bench: {}, AutoRound (hours)", self.trained.name());
        self.folder_rows("AutoRound", &mut command)
    }

    /// Runs a peer's script on the model and the calibration text, and scores the MLX folders that it wrote.
    fn folder_rows(&mut self, peer: &str, command: &mut Command) -> Result<()> {
        command.arg("--model").arg(&self.trained.model).arg("--text").arg(&self.trained.calibration);
        command.args(["--samples", &self.options.samples.to_string()]);
        command.args(["--sequence-length", &self.options.sequence_length.to_string()]);
        command.arg("--out").arg(self.work.join(peer));
        for row in self.peer_rows(command)? {
            let name = format!("{peer} {}", row["name"].as_str().unwrap_or_default());
            if let Some(folder) = row["folder"].as_str() {
                self.score(name, true, Path::new(folder), None)?;
            }
        }
        Ok(())
    }

    fn llama_cpp(&mut self) -> Result<()> {
        eprintln!("bench: {}, llama.cpp", self.trained.name());
        let Some(python) = llama_cpp::python()? else {
            self.missing.push("llama.cpp: its PyPI package does not build here".to_owned());
            return Ok(());
        };
        let reference = self.work.join("reference.safetensors");
        let reference_path = reference.to_string_lossy().into_owned();
        let model = self.trained.model.clone();
        self.evaluate(&model, &["--save-reference", &reference_path, "--overwrite"])?;
        let mut command = Command::new(python);
        command.arg(workspace::root().join("bench/peers/bench_llama_cpp.py"));
        command.arg("--model").arg(&self.trained.model).arg("--reference").arg(&reference);
        command.arg("--out").arg(self.work.join("llama.cpp")).env("GGML_NO_BACKTRACE", "1");
        for row in self.peer_rows(&mut command)? {
            let (Some(name), Some(bpw)) = (row["name"].as_str(), row["bpw"].as_f64()) else { continue };
            let name = format!("llama.cpp {name}");
            self.rows.push(Row { name, peer: true, bpw, predicted: None, scores: row["scores"].clone() });
        }
        Ok(())
    }

    /// Runs a script and returns the rows that it printed, one per model; failures go to the notes.
    fn peer_rows(&mut self, command: &mut Command) -> Result<Vec<Value>> {
        let output = command.output()?;
        let mut rows = Vec::new();
        let printed = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            // A peer that breaks off is a gap in the table.
            let printed = String::from_utf8_lossy(&output.stderr);
            // Progress bars begin their lines anew.
            let last = printed.split(['\n', '\r']).rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            let script = command.get_args().next().map(Path::new).and_then(Path::file_name);
            let script = script.unwrap_or_default().to_string_lossy();
            self.missing.push(format!("{script} broke off: {}", last.trim()));
        }
        for line in printed.lines().filter(|line| line.starts_with('{')) {
            let row: Value = serde_json::from_str(line)?;
            if let Some(failed) = row["failed"].as_str() {
                self.missing.push(format!("{}: {failed}", row["name"].as_str().unwrap_or_default()));
            } else {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Returns the peer with the lowest KL divergence among those of at most `bpw` + 0.05 bits per weight.
    fn best_peer(&self, bpw: f64) -> Option<&Row> {
        let peers = self.rows.iter().filter(|row| row.peer && row.bpw <= bpw + 0.05);
        peers.min_by(|a, b| a.kl().total_cmp(&b.kl()))
    }

    fn ratios(&self) -> Vec<Vec<String>> {
        let mut ratios = vec![
            [
                row(&["bpw", "best peer of that size", "KL"]),
                row(&WAYS),
                row(&["gptq / peer", "refined / peer", "distilled / peer", "learned / peer"]),
            ]
            .concat(),
        ];
        for target in self.options.sizes().1 {
            let ours = WAYS.map(|way| {
                let name = format!("{way}, --target-bpw {}", printed(*target));
                self.rows.iter().find(|row| row.name == name).map(Row::kl)
            });
            let peer = self.best_peer(*target);
            let mut cells = vec![printed(*target)];
            cells.push(peer.map_or_else(String::new, |peer| format!("{} at {:.2}", peer.name, peer.bpw)));
            cells.push(peer.map_or_else(String::new, |peer| format!("{:.5}", peer.kl())));
            cells.extend(ours.map(|kl| kl.map_or_else(String::new, |kl| format!("{kl:.5}"))));
            for ours in &ours[2..] {
                let ratio = peer.zip(*ours).map(|(peer, kl)| kl / peer.kl());
                cells.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            }
            ratios.push(cells);
        }
        ratios
    }

    fn report(&self) -> Report {
        let mut rows = vec![row(&["", "bpw", "KL", "stderr", "predicted", "perplexity", "same top token"])];
        for result in &self.rows {
            let number = |key: &str| result.scores[key].as_f64().unwrap_or(f64::NAN);
            rows.push(vec![
                result.name.clone(),
                format!("{:.3}", result.bpw),
                format!("{:.5}", result.kl()),
                format!("{:.5}", number("kl_stderr")),
                result.predicted.map_or_else(String::new, |kl| format!("{kl:.5}")),
                format!("{:.3}", number("perplexity")),
                format!("{:.2} %", 100.0 * number("same_top")),
            ]);
        }
        let float = self.rows.iter().find_map(|row| row.scores["reference_perplexity"].as_f64());
        let facts = self.rows.iter().map(|row| {
            json!({ "name": row.name, "bpw": row.bpw, "predicted_kl": row.predicted, "scores": row.scores })
        });
        let name = self.trained.name();
        Report {
            name: "quality",
            title: format!(
                "{name}: calibrated on {} x {length} tokens, codes learned from {} x {length}, evaluated on {} x {length} \
                 others; KL divergence from the float model in nats per token; float perplexity {:.3}",
                self.options.samples,
                self.options.learn_samples,
                self.options.windows,
                float.unwrap_or(f64::NAN),
                length = self.options.sequence_length
            ),
            ratios: self.ratios(),
            rows,
            notes: self.missing.iter().map(|missing| format!("Missing: {missing}")).collect(),
            facts: json!({ "model": name, "rows": facts.collect::<Vec<_>>(), "missing": self.missing }),
        }
    }
}

/// Bits per weight with one decimal, or with as many as there are.
fn printed(target: f64) -> String {
    if (target * 10.0).fract() == 0.0 { format!("{target:.1}") } else { target.to_string() }
}

impl Row {
    fn kl(&self) -> f64 {
        self.scores["kl_mean"].as_f64().unwrap_or(f64::NAN)
    }
}
