//! Opens models with one damaged file: no panic, no abort, no endless work, and an error that names the file.
//!
//! ```text
//! cargo test --test fuzz                                                200 mutations of every file
//! cargo test --test fuzz -- --mutations 10000 --file tokenizer.json     of every file of this name
//! cargo test --test fuzz -- --file unigram/tokenizer.json --only 1234 --write-to /tmp/model
//! ```
//!
//! A harness of its own: mutations know what JSON, templates, safetensors and ZIPs are made of, each is a function of seed,
//! file and number alone, and stable Rust is all it takes. It is a test target because everything is built for the tests
//! already; it runs in processes of its own because a stack overflow cannot be caught.
#![allow(clippy::print_stdout, reason = "what the harness is run for goes to standard output")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a harness may stop where it cannot go on")]

mod exercise;
mod models;
mod mutate;
mod runner;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use models::{TARGETS, Target};
use runner::Tally;

/// An error of the harness itself.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Opens models with one damaged file.
#[derive(Debug, Parser)]
struct Arguments {
    /// Mutations of each file
    #[arg(long, default_value_t = 200)]
    mutations: u64,
    /// Seed of all mutations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Files of this name only, or the one of a model: sharded/config.json
    #[arg(long, value_name = "[MODEL/]FILE")]
    file: Option<String>,
    /// The mutation of this number only
    #[arg(long, value_name = "NUMBER", requires = "file")]
    only: Option<u64>,
    /// Leave the model with that mutation in this folder, which is new
    #[arg(long, value_name = "FOLDER", requires = "only")]
    write_to: Option<PathBuf>,
    /// Run two tokens through the models that can be opened; takes far longer
    #[arg(long)]
    engine: bool,
    /// Folder of the models
    #[arg(long, hide = true, requires = "file")]
    worker: Option<PathBuf>,
    #[command(flatten)]
    runner: TestRunner,
    /// Names of tests, as `cargo test` hands them over; of a worker, its first number and the one after its last
    #[arg(hide = true)]
    names: Vec<String>,
}

/// Flags that `cargo test` and cargo-nextest give to every test target.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of another program")]
struct TestRunner {
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true, alias = "no-capture")]
    nocapture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    test_threads: Option<String>,
    #[arg(long, hide = true)]
    skip: Vec<String>,
}

/// The only test of this target.
const TEST: &str = "damaged_files";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True if there are no findings.
fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.runner.list {
        if !arguments.runner.ignored {
            println!("{TEST}: test");
        }
        return Ok(true);
    }
    if let Some(root) = &arguments.worker {
        let target = only_target(arguments)?;
        let number =
            |at: usize| arguments.names.get(at).and_then(|text| text.parse().ok()).unwrap_or_default();
        worker::run(&root.join(target.model), &target, arguments.seed, number(0), number(1))?;
        return Ok(true);
    }
    let asked_for =
        arguments.names.is_empty() || arguments.names.iter().any(|name| TEST.contains(name.as_str()));
    if arguments.runner.ignored || !asked_for {
        return Ok(true);
    }
    let root = tempfile::Builder::new().prefix("mixbit-fuzz-").tempdir()?;
    models::write_all(root.path())?;
    if let Some(number) = arguments.only {
        return one(arguments, root.path(), number);
    }
    all(arguments, root.path())
}

fn is_wanted(target: &Target, arguments: &Arguments) -> bool {
    let named = |name: &String| *name == target.file || *name == target.name();
    arguments.file.as_ref().is_none_or(named)
}

fn only_target(arguments: &Arguments) -> Result<Target> {
    let wanted: Vec<&Target> = TARGETS.iter().filter(|target| is_wanted(target, arguments)).collect();
    match wanted[..] {
        [target] => Ok(*target),
        [] => Err("no file is called so".into()),
        _ => Err("several models have a file of that name: give one as MODEL/FILE".into()),
    }
}

/// Opens one mutation in this process, and prints the outcome.
fn one(arguments: &Arguments, root: &std::path::Path, number: u64) -> Result<bool> {
    let target = only_target(arguments)?;
    let folder = arguments.write_to.clone().unwrap_or_else(|| root.join("patient"));
    let patient = worker::Patient::new(&root.join(target.model), &target, &folder)?;
    patient.infect(&target, arguments.seed, number)?;
    exercise::catch_panics();
    worker::open(&folder);
    Ok(true)
}

fn all(arguments: &Arguments, root: &std::path::Path) -> Result<bool> {
    let targets: Vec<&Target> = TARGETS.iter().filter(|target| is_wanted(target, arguments)).collect();
    if targets.is_empty() {
        return Err("no file is called so".into());
    }
    println!(
        "{:<50} {:>9} {:>7} {:>8} {:>9} {:>7} {:>11}",
        "file", "mutations", "opened", "refused", "findings", "per s", "slowest ms"
    );
    let mut clean = true;
    for target in targets {
        exercise_original(root, target)?;
        let tally = runner::run(root, target, arguments.seed, arguments.mutations, arguments.engine)?;
        print(target, arguments, &tally);
        clean &= tally.findings.is_empty();
    }
    Ok(clean)
}

/// Fails where an undamaged model is refused: such a model says nothing about damage.
fn exercise_original(root: &std::path::Path, target: &Target) -> Result<()> {
    let folder = root.join(target.model);
    let trial = exercise::Trial::run(&folder, &|_| ());
    match trial.findings.first() {
        Some((kind, message)) => Err(format!("{} as it is: {kind}: {message}", target.name()).into()),
        None if !trial.refusals.is_empty() => {
            Err(format!("{} is refused as it is: {}", target.name(), trial.refusals.join("; ")).into())
        }
        None => Ok(()),
    }
}

fn print(target: &Target, arguments: &Arguments, tally: &Tally) {
    let found: u64 = tally.findings.values().map(|finding| finding.count).sum();
    println!(
        "{:<50} {:>9} {:>7} {:>8} {:>9} {:>7.0} {:>11}",
        target.name(),
        arguments.mutations,
        tally.opened,
        tally.refused,
        found,
        arguments.mutations as f64 / tally.took.as_secs_f64(),
        tally.slowest.0
    );
    for (kind, finding) in &tally.findings {
        println!("  {} x {kind}: {}", finding.count, finding.message);
        println!("    --seed {} --file {} --only {}", arguments.seed, target.name(), finding.first);
    }
}
