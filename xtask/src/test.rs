//! `cargo xtask test`: all tests of the workspace.

use anyhow::Result;
use clap::ValueEnum;
use xtask::{build, process, workspace};

/// A part of the tests, for those who time them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Compile the tests
    Build,
    /// Run all but the documentation's
    Run,
    /// Compile and run the documentation's
    Doc,
}

/// Runs one part of the tests, or all; with cargo-nextest where it is installed.
pub fn run(part: Option<Part>) -> Result<()> {
    build::set_up_engine()?;
    if part.is_none_or(|part| part != Part::Doc) {
        let mut arguments = if has_nextest() {
            vec!["nextest", "run", "--workspace"]
        } else {
            // MLX does not share its state between threads; nextest has a process per test, cargo test has not.
            vec!["test", "--workspace", "--tests"]
        };
        arguments.extend((part == Some(Part::Build)).then_some("--no-run"));
        step(&arguments)?;
    }
    if part.is_none_or(|part| part == Part::Doc) {
        step(&["test", "--workspace", "--doc"])?;
    }
    eprintln!("test: {}", if part == Some(Part::Build) { "all compiled" } else { "all passed" });
    Ok(())
}

fn has_nextest() -> bool {
    process::output(process::cargo().args(["nextest", "--version"])).is_ok()
}

fn step(arguments: &[&str]) -> Result<()> {
    let mut command = process::cargo();
    command.args(arguments).env("RUST_TEST_THREADS", "1").current_dir(workspace::root());
    eprintln!("$ cargo {}", arguments.join(" "));
    process::run(&mut command)
}
