//! Programs that read one folder and write another, in turns, to a RAM disk and to the disk; and beside them the limits of
//! the hardware: nothing is faster than reading the input and writing the output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};
use xtask::workspace;

use crate::Options;
use crate::measure::{self, Samples};
use crate::peers::{Programs, Who};
use crate::report::{Report, Rows, row};
use crate::table;

/// Steps in the order they run.
const STEPS: [Step; 6] = [
    Step::Program(Who::MlxLm),
    Step::Program(Who::MlxLmBlas),
    Step::Program(Who::Mixbit),
    Step::Copy,
    Step::CopyAndSync,
    Step::Read,
];
const MIXBIT: usize = 2;

#[derive(Clone, Copy)]
enum Step {
    Program(Who),
    Copy,
    CopyAndSync,
    Read,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Program(who) => who.name(),
            Self::Copy => "floor: `cp` of the output",
            Self::CopyAndSync => "floor: `cp` of the output, synced",
            Self::Read => "floor: read of the input",
        }
    }
}

/// Work that the programs are compared at.
pub struct Job {
    /// Name of the bench.
    pub name: &'static str,
    /// Model folder to read.
    pub input: PathBuf,
    /// Arguments of mlx-lm and of mixbit, before the folders.
    pub arguments: [Vec<&'static str>; 2],
    /// A further column for the two programs: its unit, per second, and the amount of work that each does.
    pub work: Option<(&'static str, [f64; 2])>,
}

/// Values that all runs share.
struct Setting<'a> {
    job: &'a Job,
    programs: Programs,
    log: PathBuf,
}

/// All samples with the outputs in one place, one row per step.
struct Place {
    name: String,
    rows: Vec<Samples>,
}

/// Measures; the report has the `title`, and its JSON the `facts`.
pub fn run(job: &Job, options: Options, title: &str, facts: &Value) -> Result<Report> {
    let root = workspace::root();
    let log = root.join("bench-data").join(format!("{}.log", job.name));
    let setting = Setting { job, programs: Programs::ready()?, log };
    let mut places = Vec::new();
    for (name, parent) in [("RAM disk", PathBuf::from("/dev/shm")), ("disk", root.join("bench-data"))] {
        if parent.is_dir() {
            let folder = parent.join(format!("mixbit-bench-{}", job.name));
            places.push(setting.place(name, &folder, options.runs)?);
        }
    }
    Ok(report(job, options.runs, title, facts, &places))
}

impl Setting<'_> {
    /// Measures with the outputs in `folder`, which is removed afterwards.
    fn place(&self, name: &str, folder: &Path, runs: u32) -> Result<Place> {
        let mut rows: Vec<Samples> = STEPS.iter().map(|_| Samples::default()).collect();
        remove(folder)?;
        fs::create_dir_all(folder)?;
        // The input comes from the page cache, for all of them; and no one is the first to touch memory that a virtual
        // machine has not been given yet: a copy of the input is larger than what is written later on.
        let warm = folder.join("warm");
        measure::child(&shell("cp -r \"$1\" \"$2\"", &self.job.input, &warm), &self.log)?;
        remove(&warm)?;
        for run in 1..=runs {
            eprintln!("bench: {name}, run {run} of {runs}");
            let (ours, other) = (folder.join("mixbit"), folder.join("other"));
            for (step, row) in STEPS.into_iter().zip(&mut rows) {
                let target = if matches!(step, Step::Program(Who::Mixbit)) { &ours } else { &other };
                measure::sync();
                row.0.push(measure::child(&self.command(step, &ours, target)?, &self.log)?);
                remove(&other)?;
            }
            remove(&ours)?;
        }
        remove(folder)?;
        Ok(Place { name: name.to_owned(), rows })
    }

    fn command(&self, step: Step, ours: &Path, target: &Path) -> Result<Command> {
        Ok(match step {
            Step::Program(who) => {
                let mut command = self.programs.command(who)?;
                if who == Who::Mixbit {
                    command.args(&self.job.arguments[1]);
                } else {
                    command.args(["-m", "mlx_lm"]).args(&self.job.arguments[0]);
                }
                command.arg("--hf-path").arg(&self.job.input).arg("--mlx-path").arg(target);
                command
            }
            Step::Copy => shell("cp -r \"$1\" \"$2\"", ours, target),
            Step::CopyAndSync => shell("cp -r \"$1\" \"$2\" && sync \"$2\"/*", ours, target),
            Step::Read => self.read(),
        })
    }

    fn read(&self) -> Command {
        let mut command = Command::new("dd");
        let mut input = std::ffi::OsString::from("if=");
        input.push(self.job.input.join("model.safetensors"));
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

impl Job {
    /// Returns the work per second of each run; `None` for steps that do no work.
    fn rates(&self, step: Step, samples: &Samples) -> Option<Vec<f64>> {
        let Step::Program(who) = step else { return None };
        let amount = self.work?.1[usize::from(who == Who::Mixbit)];
        Some(samples.seconds().iter().map(|seconds| amount / seconds).collect())
    }
}

impl Place {
    /// Returns a peer's time over mixbit's, its peak memory over mixbit's, and mixbit's rate of work over the peer's.
    fn ratios(&self, job: &Job, index: usize) -> (f64, f64, Option<f64>) {
        let ([time, memory], [our_time, our_memory]) =
            (self.rows[index].medians(), self.rows[MIXBIT].medians());
        let rate =
            |index: usize| job.rates(STEPS[index], &self.rows[index]).map(|rates| table::median(&rates));
        let work = rate(MIXBIT).zip(rate(index)).map(|(ours, theirs)| ours / theirs);
        (time / our_time, memory / our_memory, work)
    }
}

fn report(job: &Job, runs: u32, title: &str, facts: &Value, places: &[Place]) -> Report {
    let mut ratios = vec![row(&["peer / mixbit", "time", "peak memory"])];
    let mut rows = vec![row(&["output to", "", "seconds", "peak MB"])];
    if let Some((unit, _)) = job.work {
        ratios[0].push(format!("{unit}, mixbit / peer"));
        rows[0].push(unit.to_owned());
    }
    for place in places {
        place.add(job, &mut ratios, &mut rows);
    }
    let mut value = json!({ "runs": runs });
    if let (Value::Object(value), Value::Object(facts)) = (&mut value, facts) {
        value.extend(facts.clone());
    }
    value["places"] = places.iter().map(|place| place.json(job)).collect();
    Report {
        name: job.name,
        title: format!("{title}, input in the page cache; runs in turns: {runs}, median (lowest-highest)"),
        ratios,
        rows,
        notes: Vec::new(),
        facts: value,
    }
}

impl Place {
    fn add(&self, job: &Job, ratios: &mut Rows, rows: &mut Rows) {
        for (index, (step, samples)) in STEPS.into_iter().zip(&self.rows).enumerate() {
            if index < MIXBIT {
                let (time, memory, work) = self.ratios(job, index);
                let name = format!("{}, to the {}", step.name(), self.name);
                let mut ratio = vec![name, format!("{time:.2}x"), format!("{memory:.2}x")];
                ratio.extend(work.map(|work| format!("{work:.2}x")));
                ratios.push(ratio);
            }
            let mut cells = row(&[&self.name, step.name()]);
            cells.push(table::spread(&samples.seconds(), 2));
            cells.push(table::spread(&samples.megabytes(), 0));
            cells.extend(job.rates(step, samples).map(|rates| table::spread(&rates, 0)));
            rows.push(cells);
        }
    }

    fn json(&self, job: &Job) -> Value {
        let row = |(index, (step, samples)): (usize, (Step, &Samples))| {
            let mut row = samples.json(step.name());
            if let Some((unit, rates)) = job.work.map(|(unit, _)| unit).zip(job.rates(step, samples)) {
                row[unit] = json!(rates);
            }
            if index < MIXBIT {
                let (time, memory, work) = self.ratios(job, index);
                row["time_ratio"] = json!(time);
                row["memory_ratio"] = json!(memory);
                row["rate_ratio"] = json!(work);
            }
            row
        };
        let rows: Vec<Value> = STEPS.into_iter().zip(&self.rows).enumerate().map(row).collect();
        json!({ "output": self.name, "rows": rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Sample;

    fn place() -> Place {
        let samples = |seconds: f64| Samples(vec![Sample { seconds, peak: 2e6 * seconds }]);
        Place { name: "disk".to_owned(), rows: [8.0, 6.0, 2.0, 1.0, 1.0, 1.0].map(samples).into() }
    }

    #[test]
    fn ratios_are_of_medians() {
        let job = Job {
            name: "x",
            input: PathBuf::new(),
            arguments: [vec![], vec![]],
            work: Some(("MB/s", [800.0, 600.0])),
        };
        let report = report(&job, 1, "Title", &json!({ "parameters": 7 }), &[place()]);
        assert_eq!(report.ratios[1], ["mlx-lm, to the disk", "4.00x", "4.00x", "3.00x"]);
        assert_eq!(report.ratios[2], ["mlx-lm, same BLAS, to the disk", "3.00x", "3.00x", "2.25x"]);
        assert_eq!(report.facts["parameters"], 7);
        let rows = &report.facts["places"][0]["rows"];
        assert_eq!(rows[0]["rate_ratio"], 3.0);
        assert_eq!(rows[MIXBIT]["MB/s"], json!([300.0]));
        assert!(rows[MIXBIT].get("time_ratio").is_none());
    }
}
