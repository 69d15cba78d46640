//! Running a program under the clock: its time and the peak of its memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::table;
use crate::process;

/// What one run took.
pub struct Sample {
    /// From start to end.
    pub seconds: f64,
    /// Peak resident set in bytes, as the kernel counts it: mapped files are in it as far as they were touched.
    pub peak: f64,
}

/// The runs of one program.
#[derive(Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// Of each run.
    pub fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(|sample| sample.seconds).collect()
    }

    /// Peak memory of each run in MB (1e6 bytes).
    pub fn megabytes(&self) -> Vec<f64> {
        self.0.iter().map(|sample| sample.peak / 1e6).collect()
    }

    /// Medians of [`Self::seconds`] and [`Self::megabytes`].
    pub fn medians(&self) -> [f64; 2] {
        [self.seconds(), self.megabytes()].map(|values| table::median(&values))
    }

    /// Name and samples, for programs.
    pub fn json(&self, name: &str) -> Value {
        let peaks: Vec<f64> = self.0.iter().map(|sample| sample.peak).collect();
        json!({ "name": name, "seconds": self.seconds(), "peak_bytes": peaks })
    }
}

/// Runs a command to its end; what it prints goes to `log`, and into the error when it fails.
///
/// The kernel counts xtask's own memory at the time of the fork in the child's peak: keep that small.
pub fn child(command: &mut Command, log: &Path) -> Result<Sample> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let started = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start `{}`", process::line(command)))?;
    let (status, usage) = wait(child.id())?;
    let seconds = started.elapsed().as_secs_f64();
    if status != 0 {
        let said = fs::read_to_string(log).unwrap_or_default();
        bail!("`{}` failed\n{}", process::line(command), said.trim());
    }
    // Linux counts kilobytes, macOS bytes.
    let unit = if cfg!(target_os = "macos") { 1.0 } else { 1024.0 };
    Ok(Sample { seconds, peak: usage.ru_maxrss as f64 * unit })
}

fn wait(id: u32) -> Result<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value; both pointers are to live locals.
    let (waited, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(id as libc::pid_t, &raw mut status, 0, &raw mut usage), usage)
    };
    if waited < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot wait for the child");
    }
    Ok((status, usage))
}

/// Writes what the kernel still holds back, so that one run does not pay for another's output.
pub fn sync() {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::sync() };
}
