//! `cargo xtask bench profile`: where analyze, quantize, run and eval spend processor time, as Linux's `perf` samples it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use xtask::build::{Profile, build_mixbit};
use xtask::{process, smollm2, workspace};

use crate::report::{Report, row};
use crate::trained::{Folders, Trained};

/// Samples per second of processor time.
const FREQUENCY: u32 = 997;

/// Kinds of work: name, library, parts of function names. A sampled function is of the first kind whose library and one of
/// whose parts fit; an empty part fits every name.
const KINDS: [(&str, &str, &[&str]); 15] = [
    (WAITING, "openblas", &["thread_server"]),
    ("matrix products: kernels", "openblas", &["kernel"]),
    ("matrix products: packing, clearing", "openblas", &[""]),
    ("matrix products: packing, clearing", "mixbit_engine", &["sgemm", "gram"]),
    (WAITING, "mixbit_engine", &["Pool::work"]),
    ("attention, softmax, norm, RoPE of our own", "mixbit_engine", &[""]),
    ("MLX: copies", "libmlx", &["copy"]),
    ("MLX: elementwise, reductions, graph", "libmlx", &[""]),
    ("allocator", "mixbit", &["mi_", "operator new", "operator delete"]),
    ("tokenizing, JSON, hashes", "mixbit", &["tokenizers", "match_at", "serde", "sha2", "onig"]),
    ("matrix products: kernels", "mixbit", &["matrixmultiply"]),
    ("scores, rounding, KL divergence", "mixbit", &[""]),
    ("copying and clearing memory", "libc.so", &["mem"]),
    (WAITING, "libc.so", &["pthread", "futex", "yield"]),
    ("kernel: pages, switches, files", "kernel", &[""]),
];
const WAITING: &str = "waiting for another thread";
const OTHER: &str = "other";

/// Options of the bench.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    folders: Folders,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Seconds of processor time by kind.
type Times = Vec<(&'static str, f64)>;

/// Runs the bench.
pub fn run(options: &Options) -> Result<Report> {
    let mixbit = workspace::root().join(build_mixbit(Profile::Release)?);
    let folder = workspace::root().join("bench-data/profile");
    fs::create_dir_all(&folder)?;
    let trained = options.folders.main()?;
    let mut columns = Vec::new();
    for (name, arguments) in commands(&trained, &folder)? {
        eprintln!("bench: {name}, {}", trained.name());
        let data = folder.join(format!("{name}.perf.data"));
        columns.push((name, sampled(&mixbit, &arguments, &data)?));
    }
    Ok(Report {
        name: "profile",
        title: format!(
            "{}: seconds of processor time and their share, {FREQUENCY} samples per second; 48 x 256 tokens to \
             calibrate on, 24 x 256 to evaluate; run: 64 tokens of {} in float16",
            trained.name(),
            smollm2::NAME
        ),
        ratios: Vec::new(),
        rows: table(&columns),
        notes: vec!["`perf report -g -i bench-data/profile/NAME.perf.data` shows who called.".to_owned()],
        facts: json!({ "seconds": columns.iter().map(|(name, times)| {
            let kinds: serde_json::Map<_, _> = times.iter().map(|&(kind, time)| (kind.to_owned(), json!(time))).collect();
            json!({ "command": name, "kinds": kinds })
        }).collect::<Vec<_>>() }),
    })
}

fn commands(trained: &Trained, folder: &Path) -> Result<Vec<(&'static str, Vec<PathBuf>)>> {
    let Trained { model, calibration, data } = trained;
    let words = |words: &[&str]| words.iter().map(PathBuf::from).collect::<Vec<_>>();
    let calibrated = |command: &str, from: &str, to: &str, out: &str| {
        let mut all = words(&[command, "--overwrite", "--samples", "48", "--sequence-length", "256", from]);
        all.extend([model.clone(), to.into(), folder.join(out), "--calibration".into(), calibration.clone()]);
        all
    };
    let quantized = folder.join("quantized");
    let mut quantize = calibrated("quantize", "--hf-path", "--mlx-path", "quantized");
    quantize.extend(words(&["--target-bpw", "4.5"]));
    // Of a small model little but threads waking each other would be seen.
    let mut answer = words(&["run", "--prompt", "The", "--max-tokens", "64", "--model"]);
    answer.push(smollm2::ensure()?);
    let mut eval = words(&["eval", "--sequence-length", "256", "--max-tokens", "6144", "--model"]);
    eval.extend([quantized, "--reference".into(), model.clone(), "--data".into(), data.clone()]);
    Ok(vec![
        ("analyze", calibrated("analyze", "--model", "--out", "table.json")),
        ("quantize", quantize),
        ("run", answer),
        ("eval", eval),
    ])
}

fn sampled(mixbit: &Path, arguments: &[PathBuf], data: &Path) -> Result<Times> {
    let mut record = Command::new("perf");
    record.args(["record", "--quiet", "-g", "-e", "cpu-clock", "-F", &FREQUENCY.to_string(), "-o"]).arg(data);
    record.arg("--").arg(mixbit).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    process::run(&mut record)
        .context("this bench needs Linux's perf (Debian: apt-get install linux-perf)")?;
    let mut report = Command::new("perf");
    report.args([
        "report",
        "--stdio",
        "-g",
        "none",
        "--no-children",
        "--sort",
        "dso,symbol",
        "-n",
        "-t",
        "|",
    ]);
    let listing = process::output(report.arg("-i").arg(data))?;
    let mut times: Times = Vec::new();
    for line in listing.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.splitn(4, '|').skip(1);
        let (Some(samples), Some(library), Some(function)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let seconds = samples.trim().parse::<f64>()? / f64::from(FREQUENCY);
        let kind = kind(library, function);
        match times.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, time)) => *time += seconds,
            None => times.push((kind, seconds)),
        }
    }
    Ok(times)
}

fn kind(library: &str, function: &str) -> &'static str {
    // The program's own name is a part of its library's.
    let fits = |of: &str| if of == "mixbit" { library.trim() == of } else { library.contains(of) };
    let fitting =
        KINDS.iter().find(|(_, of, parts)| fits(of) && parts.iter().any(|part| function.contains(part)));
    fitting.map_or(OTHER, |(kind, ..)| kind)
}

fn table(columns: &[(&'static str, Times)]) -> Vec<Vec<String>> {
    let mut header = row(&["kind"]);
    header.extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    let mut kinds: Vec<&str> = Vec::new();
    for kind in KINDS.iter().map(|(kind, ..)| *kind).chain([OTHER]) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let cell = |times: &Times, wanted: &dyn Fn(&str) -> bool| {
        let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
            times.iter().filter(|(kind, _)| wanted(kind)).fold(0.0, |sum, (_, time)| sum + time)
        };
        let (part, all) = (sum(wanted), sum(&|_| true));
        format!("{part:.2} ({:.0} %)", 100.0 * part / all.max(f64::MIN_POSITIVE))
    };
    let line = |name: &str, wanted: &dyn Fn(&str) -> bool| {
        let mut line = row(&[name]);
        line.extend(columns.iter().map(|(_, times)| cell(times, wanted)));
        line
    };
    let mut rows = vec![header];
    rows.extend(kinds.iter().map(|&name| line(name, &|kind| kind == name)));
    rows.push(line("all", &|_| true));
    rows
}
