//! `cargo xtask demo`: mixbit's commands in their order, on a small model of the repository.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use xtask::build::{Profile, build_mixbit};
use xtask::{process, workspace};

const MODEL: &str = "fixtures/models/mobilellm-docs-1m";
const FLOAT: &str = "target/demo/mobilellm-fp16";
const MIXED: &str = "target/demo/mobilellm-4.5bpw";
const QUESTION: &str = "What is a trait in Rust?";

/// Builds mixbit and runs every step, each printed as one would type it.
pub fn run() -> Result<()> {
    let mixbit = build_mixbit(Profile::Release)?;
    let folder = workspace::root().join("target/demo");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    step(&mixbit, &["convert", "--hf-path", MODEL, "--mlx-path", FLOAT, "--dtype", "float16"])?;
    step(&mixbit, &["quantize", "--hf-path", MODEL, "--mlx-path", MIXED, "--target-bpw", "4.5"])?;
    step(&mixbit, &["inspect", MIXED])?;
    for model in [MIXED, FLOAT] {
        step(&mixbit, &["run", "--model", model, "--prompt", QUESTION, "--max-tokens", "64"])?;
    }
    Ok(())
}

fn step(mixbit: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(workspace::root().join(mixbit));
    command.args(arguments).current_dir(workspace::root());
    let typed = process::line(Command::new(mixbit).args(arguments));
    println!("\n$ {typed}");
    process::run(&mut command)
}
