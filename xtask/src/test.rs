//! `cargo xtask test`: all tests of the workspace.

use anyhow::Result;

use xtask::{build, process, workspace};

/// Runs them, with cargo-nextest where it is installed.
pub fn run() -> Result<()> {
    build::set_up_engine()?;
    let has_nextest = process::output(process::cargo().args(["nextest", "--version"])).is_ok();
    if has_nextest {
        step(&["nextest", "run", "--workspace"])?;
    } else {
        // MLX does not share its state between threads; nextest has a process per test, cargo test has not.
        step(&["test", "--workspace", "--tests"])?;
    }
    step(&["test", "--workspace", "--doc"])?;
    eprintln!("test: all passed");
    Ok(())
}

fn step(arguments: &[&str]) -> Result<()> {
    let mut command = process::cargo();
    command.args(arguments).env("RUST_TEST_THREADS", "1").current_dir(workspace::root());
    eprintln!("$ cargo {}", arguments.join(" "));
    process::run(&mut command)
}
