//! Starts workers, watches them, and counts their findings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::Result;
use crate::models::Target;
use crate::worker::MARK;

/// Longest time of one step. The slowest renders a template that does not end several times, in some 5 s of one core; the rest
/// is for machines that do other work too.
const MOST_TIME: Duration = Duration::from_mins(1);

/// Findings of one kind: their number, and the first.
#[derive(Debug)]
pub struct Finding {
    pub count: u64,
    pub first: u64,
    pub message: String,
}

/// Outcomes of the mutations of one file.
#[derive(Debug, Default)]
pub struct Tally {
    pub opened: u64,
    pub refused: u64,
    pub findings: BTreeMap<String, Finding>,
    /// Longest time of one mutation, in milliseconds.
    pub slowest: (u64, u64),
    pub took: Duration,
}

impl Tally {
    fn find(&mut self, number: u64, kind: &str, message: &str) {
        let first = || Finding { count: 0, first: number, message: message.to_owned() };
        self.findings.entry(kind.to_owned()).or_insert_with(first).count += 1;
    }
}

/// State of a worker when it was last heard of.
#[derive(Debug, Default)]
struct Place {
    number: u64,
    step: String,
    done: bool,
}

/// Opens all mutations of `target`, in as many workers as it takes.
pub fn run(root: &Path, target: &Target, seed: u64, mutations: u64, engine: bool) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut next = 0;
    while next < mutations {
        let errors = root.join("stderr");
        let mut child = start_worker(root, target, seed, next..mutations, &errors, engine)?;
        let lines = listen(&mut child);
        let mut place = Place { number: next, ..Place::default() };
        let timed_out = follow(&lines, &mut place, &mut tally);
        if timed_out {
            child.kill()?;
        }
        let status = child.wait()?;
        if status.success() {
            break;
        }
        if place.done {
            return Err(format!("the worker stopped between two mutations: {}", last_line(&errors)).into());
        }
        let folder = root.to_string_lossy();
        died(&mut tally, &place, status, timed_out, &last_error(&errors), &folder);
        next = place.number + 1;
    }
    tally.took = start.elapsed();
    Ok(tally)
}

fn start_worker(
    root: &Path,
    target: &Target,
    seed: u64,
    numbers: std::ops::Range<u64>,
    errors: &Path,
    engine: bool,
) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--seed", &seed.to_string(), "--file", &target.name(), "--worker"])
        .arg(root)
        .args([numbers.start.to_string(), numbers.end.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(errors)?);
    if !engine {
        // A forward pass is a hundred times what all else takes.
        command.env("MIXBIT_ENGINE_DIR", root.join("no-engine"));
    }
    Ok(command.spawn()?)
}

/// Returns the lines that `child` writes for the runner.
fn listen(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let Some(line) = line.strip_prefix(MARK) else { continue };
                if sender.send(line.to_owned()).is_err() {
                    break;
                }
            }
        });
    }
    lines
}

/// Counts the outcomes that the worker prints, until it ends (false) or takes too long (true).
fn follow(lines: &Receiver<String>, place: &mut Place, tally: &mut Tally) -> bool {
    let mut deadline = Instant::now() + MOST_TIME;
    loop {
        let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
        };
        let parts: Vec<&str> = line.splitn(3, '\t').collect();
        match parts[..] {
            ["case", number] => {
                *place = Place { number: number.parse().unwrap_or_default(), ..Place::default() };
                deadline = Instant::now() + MOST_TIME;
            }
            ["step", step] => {
                step.clone_into(&mut place.step);
                deadline = Instant::now() + MOST_TIME;
            }
            ["finding", kind, message] => tally.find(place.number, kind, message),
            ["done", result, milliseconds] => {
                place.done = true;
                tally.slowest = tally.slowest.max((milliseconds.parse().unwrap_or_default(), place.number));
                if result == "opened" { tally.opened += 1 } else { tally.refused += 1 }
            }
            _ => {}
        }
    }
}

/// Counts the mutation that the worker did not survive.
fn died(tally: &mut Tally, place: &Place, status: ExitStatus, timed_out: bool, said: &str, folder: &str) {
    tally.refused += 1;
    let Place { number, step, .. } = place;
    // A template that takes too much memory ends the program with an error like any other.
    let refused = status.code() == Some(1) && said.starts_with("error: ") && said.contains(folder);
    if timed_out {
        tally.find(*number, &format!("{step}: takes more than {MOST_TIME:?}"), "");
    } else if !refused {
        tally.find(*number, &format!("{step}: {status}"), said);
    }
}

/// Returns the last line that begins with `error: `, or the last of all.
fn last_error(errors: &Path) -> String {
    let text = std::fs::read(errors).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let error = text.lines().rfind(|line| line.starts_with("error: "));
    error.map_or_else(|| last_line(errors), str::to_owned)
}

fn last_line(errors: &Path) -> String {
    let text = std::fs::read(errors).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}
