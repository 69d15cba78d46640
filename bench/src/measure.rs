//! Running a program under the clock: time and peak memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use xtask::process;

use crate::launch::{self, Ended};
use crate::table;

/// Time and memory of one run.
pub struct Sample {
    /// Seconds from start to end.
    pub seconds: f64,
    /// Peak resident set in bytes, as the kernel counts it: mapped files are in it as far as they were touched.
    pub peak: f64,
}

/// The runs of one program.
#[derive(Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// Returns the seconds of each run.
    pub fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(|sample| sample.seconds).collect()
    }

    /// Returns the peak memory of each run in MB (1e6 bytes).
    pub fn megabytes(&self) -> Vec<f64> {
        self.0.iter().map(|sample| sample.peak / 1e6).collect()
    }

    /// Returns the medians of [`Self::seconds`] and [`Self::megabytes`].
    pub fn medians(&self) -> [f64; 2] {
        [self.seconds(), self.megabytes()].map(|values| table::median(&values))
    }

    /// Returns name and samples as JSON.
    pub fn json(&self, name: &str) -> Value {
        let peaks: Vec<f64> = self.0.iter().map(|sample| sample.peak).collect();
        json!({ "name": name, "seconds": self.seconds(), "peak_bytes": peaks })
    }
}

/// Runs a command to its end; what it prints goes to `log`, and into the error when it fails.
pub fn child(command: &Command, log: &Path) -> Result<Sample> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let launcher = std::env::current_exe().context("cannot find the program of the benches")?;
    let Ended { seconds, peak, status } = launch::run(&launcher, command, file)?;
    if status != 0 {
        let output = fs::read_to_string(log).unwrap_or_default();
        bail!("`{}` failed\n{}", process::line(command), output.trim());
    }
    Ok(Sample { seconds, peak })
}

/// Flushes the kernel's caches to disk, so that one run does not pay for another's output.
pub fn sync() {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::sync() };
}
