//! The process that opens mutated models. It prints each step before it takes it, so that the process that started it knows
//! the step at which it died.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fastrand::Rng;

use crate::Result;
use crate::exercise::{Trial, catch_panics};
use crate::models::Target;
use crate::mutate::mutate;

/// Start of the lines that are meant for the runner.
pub const MARK: &str = "\u{1}fuzz\t";

/// Bytes of address space that a worker may take.
#[cfg(target_os = "linux")]
const MOST_MEMORY: u64 = 4 << 30;

/// Returns the generator of mutation `number` of `target`, equal on every machine and for every number of mutations.
pub fn generator(seed: u64, target: &Target, number: u64) -> Rng {
    let mut mixed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in target.name().bytes() {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Rng::with_seed(mixed)
}

/// A model folder whose files are links, but for a mutation of the target's file.
pub struct Patient {
    folder: PathBuf,
    path: PathBuf,
    original: Vec<u8>,
}

impl Patient {
    /// Links the files of the model in `model` into `folder`.
    pub fn new(model: &Path, target: &Target, folder: &Path) -> Result<Self> {
        link(model, folder)?;
        let original = fs::read(model.join(target.file))?;
        Ok(Self { folder: folder.to_owned(), path: folder.join(target.file), original })
    }

    /// Puts the mutation in its place.
    pub fn infect(&self, target: &Target, seed: u64, number: u64) -> Result<()> {
        let mutated = mutate(target.kind, &self.original, &mut generator(seed, target, number));
        fs::remove_file(&self.path)?;
        Ok(fs::write(&self.path, mutated)?)
    }
}

fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            link(&path, &to.join(name))?;
        } else if fs::hard_link(&path, to.join(&name)).is_err() {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Opens mutations `first..end` of `target`, of which `model` is the folder.
pub fn run(model: &Path, target: &Target, seed: u64, first: u64, end: u64) -> Result<()> {
    limit_memory();
    catch_panics();
    let home = tempfile::tempdir_in(model.parent().unwrap_or(model))?;
    let patient = Patient::new(model, target, &home.path().join("model"))?;
    for number in first..end {
        say(&format!("case\t{number}"));
        patient.infect(target, seed, number)?;
        open(&patient.folder);
    }
    Ok(())
}

/// Opens the model in `folder` and prints the outcome.
pub fn open(folder: &Path) {
    let start = Instant::now();
    let trial = Trial::run(folder, &|step| say(&format!("step\t{step}")));
    for (kind, message) in &trial.findings {
        // Debug writes control characters so that they can be seen.
        let shown: String = message.chars().take(300).collect();
        say(&format!("finding\t{kind}\t{shown:?}"));
    }
    for refusal in &trial.refusals {
        say(&format!("refusal\t{refusal:?}"));
    }
    let result = if trial.refusals.is_empty() { "opened" } else { "refused" };
    say(&format!("done\t{result}\t{}", start.elapsed().as_millis()));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Where nobody listens any more there is nothing to work for.
    if writeln!(out, "{MARK}{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

#[cfg(target_os = "linux")]
fn limit_memory() {
    let limit = libc::rlimit { rlim_cur: MOST_MEMORY, rlim_max: MOST_MEMORY };
    // SAFETY: sets a limit of this process.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
}

#[cfg(not(target_os = "linux"))]
fn limit_memory() {}
