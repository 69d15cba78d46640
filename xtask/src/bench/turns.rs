//! Programs that read the same folder and write another, in turns, to a RAM disk and to the disk; and beside them what the
//! hardware allows: nothing is faster than reading the input and writing the output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::measure::{self, Sample};
use super::{Options, table};
use crate::{python, workspace};

pub const MLX_LM: usize = 0;
pub const MIXBIT: usize = 1;
const NAMES: [&str; 5] =
    ["mlx-lm", "mixbit", "cp of the output", "cp of the output, sync", "read of the input"];

/// What is compared.
pub struct Job {
    /// The bench's name.
    pub name: &'static str,
    /// A model folder.
    pub input: PathBuf,
    /// What mlx-lm and mixbit are asked to do, before the folders.
    pub arguments: [Vec<&'static str>; 2],
    /// What is done and how much of it, for a further column of the two programs: the unit (per second) and the amounts.
    pub work: Option<(&'static str, [f64; 2])>,
}

/// Everything that stays the same from run to run.
struct Setting<'a> {
    job: &'a Job,
    python: PathBuf,
    mixbit: PathBuf,
    log: PathBuf,
}

/// All samples taken in one place, a row per name.
struct Place {
    name: String,
    rows: Vec<Vec<Sample>>,
}

/// Measures, and prints the result under `title`, or as JSON with `facts`.
pub fn run(job: &Job, options: &Options, title: &str, facts: &Value) -> Result<()> {
    let root = workspace::root();
    let setting = Setting {
        job,
        python: python::venv()?,
        mixbit: root.join(workspace::release()?),
        log: root.join("bench-data").join(format!("{}.log", job.name)),
    };
    let mut places = Vec::new();
    for (name, parent) in [("/dev/shm", PathBuf::from("/dev/shm")), ("disk", root.join("bench-data"))] {
        if parent.is_dir() {
            let folder = parent.join(format!("mixbit-bench-{}", job.name));
            places.push(setting.place(name, &folder, options.runs)?);
        }
    }
    if options.json {
        println!("{:#}", report(job, options.runs, facts, &places));
    } else {
        print!("{}", text(job, options.runs, title, &places));
    }
    Ok(())
}

impl Setting<'_> {
    /// Measures with the outputs in `folder`, which is gone afterwards.
    fn place(&self, name: &str, folder: &Path, runs: u32) -> Result<Place> {
        let mut rows: Vec<Vec<Sample>> = NAMES.iter().map(|_| Vec::new()).collect();
        remove(folder)?;
        fs::create_dir_all(folder)?;
        // The input comes from the page cache, for all of them; and no one is the first to touch memory that a virtual
        // machine has not been given yet: a copy of the input is larger than what is written later on.
        let warm = folder.join("warm");
        measure::child(&mut shell("cp -r \"$1\" \"$2\"", &self.job.input, &warm), &self.log)?;
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
            MLX_LM => {
                let mut command = Command::new(&self.python);
                command.args(["-m", "mlx_lm"]);
                self.program(command, MLX_LM, target)
            }
            MIXBIT => self.program(Command::new(&self.mixbit), MIXBIT, target),
            2 => shell("cp -r \"$1\" \"$2\"", ours, target),
            3 => shell("cp -r \"$1\" \"$2\" && sync \"$2\"/*", ours, target),
            _ => self.read(),
        }
    }

    fn program(&self, mut command: Command, index: usize, target: &Path) -> Command {
        command.args(&self.job.arguments[index]).arg("--hf-path").arg(&self.job.input);
        // A path is given: nothing is to be looked up elsewhere.
        command.arg("--mlx-path").arg(target).env("HF_HUB_OFFLINE", "1");
        command
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

fn seconds(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.seconds).collect()
}

fn megabytes(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.peak / 1e6).collect()
}

impl Job {
    /// Work per second of each sample, of those that do any.
    fn rates(&self, index: usize, samples: &[Sample]) -> Option<Vec<f64>> {
        let amount = self.work?.1.get(index).copied()?;
        Some(samples.iter().map(|sample| amount / sample.seconds).collect())
    }
}

impl Place {
    /// mlx-lm's time over mixbit's, the same of peak memory, and mixbit's rate of work over mlx-lm's.
    fn ratios(&self, job: &Job) -> (f64, f64, Option<f64>) {
        let of = |values: fn(&[Sample]) -> Vec<f64>| {
            table::median(&values(&self.rows[MLX_LM])) / table::median(&values(&self.rows[MIXBIT]))
        };
        let rate = |index: usize| job.rates(index, &self.rows[index]).map(|rates| table::median(&rates));
        let work = rate(MIXBIT).zip(rate(MLX_LM)).map(|(ours, theirs)| ours / theirs);
        (of(seconds), of(megabytes), work)
    }
}

fn text(job: &Job, runs: u32, title: &str, places: &[Place]) -> String {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut ratios = vec![row(&["mlx-lm / mixbit", "time", "peak memory"])];
    let mut rows = vec![row(&["output to", "", "seconds", "peak MB"])];
    if let Some((unit, _)) = job.work {
        ratios[0].push(format!("{unit}, mixbit / mlx-lm"));
        rows[0].push(unit.to_owned());
    }
    for place in places {
        let (time, memory, work) = place.ratios(job);
        let mut ratio = vec![place.name.clone(), format!("{time:.2}x"), format!("{memory:.2}x")];
        ratio.extend(work.map(|work| format!("{work:.2}x")));
        ratios.push(ratio);
        for (index, (name, samples)) in NAMES.iter().zip(&place.rows).enumerate() {
            let mut cells = vec![
                format!("{:<10}{name}", place.name),
                String::new(),
                table::spread(&seconds(samples), 2),
                table::spread(&megabytes(samples), 0),
            ];
            cells.extend(job.rates(index, samples).map(|rates| table::spread(&rates, 0)));
            rows.push(cells);
        }
    }
    format!(
        "{title}, input in the page cache; runs in turns: {runs}, median (lowest-highest)\n\n{}\n{}",
        table::columns(&ratios),
        table::columns(&rows)
    )
}

fn report(job: &Job, runs: u32, facts: &Value, places: &[Place]) -> Value {
    let place = |place: &Place| {
        let (time, memory, work) = place.ratios(job);
        let rows: Vec<Value> = NAMES
            .iter()
            .zip(&place.rows)
            .enumerate()
            .map(|(index, (name, samples))| {
                let peaks: Vec<f64> = samples.iter().map(|sample| sample.peak).collect();
                let mut row = json!({ "name": name, "seconds": seconds(samples), "peak_bytes": peaks });
                if let Some((unit, rates)) = job.work.map(|(unit, _)| unit).zip(job.rates(index, samples)) {
                    row[unit] = json!(rates);
                }
                row
            })
            .collect();
        let mut value =
            json!({ "output": place.name, "time_ratio": time, "memory_ratio": memory, "rows": rows });
        if let Some(work) = work {
            value["rate_ratio"] = json!(work);
        }
        value
    };
    let mut value = json!({ "bench": job.name });
    if let (Value::Object(value), Value::Object(facts)) = (&mut value, facts) {
        value.extend(facts.clone());
    }
    value["runs"] = json!(runs);
    value["places"] = places.iter().map(place).collect();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let sample = |seconds: f64| vec![Sample { seconds, peak: 2e6 * seconds }];
        Place { name: "disk".to_owned(), rows: [8.0, 2.0, 1.0, 1.0, 1.0].map(sample).into() }
    }

    #[test]
    fn ratios_come_first() {
        let mut job = Job {
            name: "x",
            input: PathBuf::new(),
            arguments: [vec![], vec![]],
            work: Some(("MB/s", [800.0, 600.0])),
        };
        let said = text(&job, 1, "Title", &[place()]);
        assert!(said.starts_with("Title, input in the page cache; runs in turns: 1"), "{said}");
        let cells: Vec<&str> = said.lines().nth(3).unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells, ["disk", "4.00x", "4.00x", "3.00x"], "{said}");
        let value = report(&job, 1, &json!({ "parameters": 7 }), &[place()]);
        assert_eq!(value["parameters"], 7);
        assert_eq!(value["places"][0]["rate_ratio"], 3.0);
        assert_eq!(value["places"][0]["rows"][MIXBIT]["MB/s"], json!([300.0]));
        job.work = None;
        assert!(report(&job, 1, &json!({}), &[place()])["places"][0].get("rate_ratio").is_none());
    }
}
