//! `cargo xtask bench convert`: float32 to float16, time and peak memory, beside what copying and reading cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::measure::{self, Sample};
use super::{Options, checkpoint, table};
use crate::{python, workspace};

const MLX_LM: usize = 0;
const MIXBIT: usize = 1;
/// The programs, and below them what the hardware allows: no converter is faster than a copy of its output.
const NAMES: [&str; 5] =
    ["mlx-lm", "mixbit", "cp of the output", "cp of the output, sync", "read of the input"];

/// Everything that stays the same from run to run.
struct Setting {
    input: PathBuf,
    python: PathBuf,
    mixbit: PathBuf,
    log: PathBuf,
}

/// All samples taken in one place, a row per name.
struct Place {
    name: String,
    rows: Vec<Vec<Sample>>,
}

/// Runs the bench.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace::root();
    let python = python::venv()?;
    let mixbit = root.join(workspace::release()?);
    let checkpoint = checkpoint::mobilellm_r1_950m()?;
    let setting =
        Setting { input: checkpoint.ensure()?, python, mixbit, log: root.join("bench-data/convert.log") };
    let mut places = Vec::new();
    for (name, parent) in [("/dev/shm", PathBuf::from("/dev/shm")), ("disk", root.join("bench-data"))] {
        if parent.is_dir() {
            places.push(setting.place(name, &parent.join("mixbit-bench-convert"), options.runs)?);
        }
    }
    if options.json {
        println!("{:#}", report(checkpoint.parameters(), options.runs, &places));
    } else {
        print!("{}", text(checkpoint.parameters(), options.runs, &places));
    }
    Ok(())
}

impl Setting {
    /// Measures with the outputs in `folder`, which is gone afterwards.
    fn place(&self, name: &str, folder: &Path, runs: u32) -> Result<Place> {
        let mut rows: Vec<Vec<Sample>> = NAMES.iter().map(|_| Vec::new()).collect();
        remove(folder)?;
        fs::create_dir_all(folder)?;
        // The input comes from the page cache, for all of them; and no one is the first to touch memory that a virtual
        // machine has not been given yet: a copy of the input is larger than what is written later on.
        let warm = folder.join("warm");
        measure::child(&mut shell("cp -r \"$1\" \"$2\"", &self.input, &warm), &self.log)?;
        remove(&warm)?;
        for run in 1..=runs {
            eprintln!("bench: {name}, run {run} of {runs}");
            let (ours, other) = (folder.join("mixbit"), folder.join("other"));
            for (index, row) in rows.iter_mut().enumerate() {
                let target = if index == MIXBIT { &ours } else { &other };
                measure::sync();
                row.push(measure::child(&mut self.command(index, &ours, target), &self.log)?);
                remove(&other)?;
            }
            remove(&ours)?;
        }
        remove(folder)?;
        Ok(Place { name: name.to_owned(), rows })
    }

    fn command(&self, index: usize, ours: &Path, target: &Path) -> Command {
        match index {
            MLX_LM => self.converter(Command::new(&self.python).args(["-m", "mlx_lm", "convert"]), target),
            MIXBIT => self.converter(Command::new(&self.mixbit).arg("convert"), target),
            2 => shell("cp -r \"$1\" \"$2\"", ours, target),
            3 => shell("cp -r \"$1\" \"$2\" && sync \"$2\"/*", ours, target),
            _ => self.read(),
        }
    }

    fn converter(&self, program: &mut Command, target: &Path) -> Command {
        program.arg("--hf-path").arg(&self.input).arg("--mlx-path").arg(target).args(["--dtype", "float16"]);
        let mut command = Command::new(program.get_program());
        // A path is given: nothing is to be looked up elsewhere.
        command.args(program.get_args()).env("HF_HUB_OFFLINE", "1");
        command
    }

    fn read(&self) -> Command {
        let mut command = Command::new("dd");
        let mut input = std::ffi::OsString::from("if=");
        input.push(self.input.join("model.safetensors"));
        command.arg(input).args(["of=/dev/null", "bs=1048576"]);
        command
    }
}

fn shell(script: &str, from: &Path, to: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(from).arg(to);
    command
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn seconds(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.seconds).collect()
}

fn megabytes(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.peak / 1e6).collect()
}

impl Place {
    /// mlx-lm's time over mixbit's, and the same of peak memory.
    fn ratios(&self) -> (f64, f64) {
        let of = |values: fn(&[Sample]) -> Vec<f64>| {
            table::median(&values(&self.rows[MLX_LM])) / table::median(&values(&self.rows[MIXBIT]))
        };
        (of(seconds), of(megabytes))
    }
}

fn text(parameters: usize, runs: u32, places: &[Place]) -> String {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut ratios = vec![row(&["mlx-lm / mixbit", "time", "peak memory"])];
    let mut rows = vec![row(&["output to", "", "seconds", "peak MB"])];
    for place in places {
        let (time, memory) = place.ratios();
        ratios.push(vec![place.name.clone(), format!("{time:.2}x"), format!("{memory:.2}x")]);
        for (name, samples) in NAMES.iter().zip(&place.rows) {
            rows.push(vec![
                format!("{:<10}{name}", place.name),
                String::new(),
                table::spread(&seconds(samples), 2),
                table::spread(&megabytes(samples), 0),
            ]);
        }
    }
    format!(
        "convert {:.0} M parameters, float32 to float16, input in the page cache; runs in turns: {runs}, median (lowest-highest)\n\n{}\n{}",
        parameters as f64 / 1e6,
        table::columns(&ratios),
        table::columns(&rows)
    )
}

fn report(parameters: usize, runs: u32, places: &[Place]) -> Value {
    let place = |place: &Place| {
        let (time, memory) = place.ratios();
        let rows: Vec<Value> = NAMES
            .iter()
            .zip(&place.rows)
            .map(|(name, samples)| {
                let peaks: Vec<f64> = samples.iter().map(|sample| sample.peak).collect();
                json!({ "name": name, "seconds": seconds(samples), "peak_bytes": peaks })
            })
            .collect();
        json!({ "output": place.name, "time_ratio": time, "memory_ratio": memory, "rows": rows })
    };
    json!({
        "bench": "convert",
        "parameters": parameters,
        "runs": runs,
        "places": places.iter().map(place).collect::<Vec<_>>()
    })
}
