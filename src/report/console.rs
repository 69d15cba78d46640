//! Notes, errors and progress on stderr; data on stdout.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::paint::unicode_bars;
use super::remaining::{BarState, RemainingTime};
use crate::error::{Error, Result};
use crate::progress::{Bar, Progress, StageEstimate};

/// Console of a command: stderr for notes and bars, unless quiet.
#[derive(Debug)]
pub struct Console {
    quiet: bool,
    wording: fn(&str) -> String,
    remaining: Arc<Mutex<RemainingTime>>,
}

impl Console {
    /// Makes a console that writes all texts in this `wording`; with `quiet` only data and errors are written.
    pub fn new(quiet: bool, wording: fn(&str) -> String) -> Self {
        Self { quiet, wording, remaining: Arc::default() }
    }

    /// Makes bars show the remaining time of the whole job too, from the estimates of its `stages` and the time that
    /// their steps take.
    pub fn begin_job(&self, stages: &[StageEstimate]) {
        *self.remaining.lock().unwrap_or_else(PoisonError::into_inner) = RemainingTime::new(stages);
    }

    /// Begins a stage of the estimate.
    pub fn stage(&self, name: &str) {
        self.remaining.lock().unwrap_or_else(PoisonError::into_inner).enter_stage(name, Instant::now());
    }

    /// Writes one line per note, unless quiet.
    pub fn notes(&self, notes: &[String]) {
        for note in notes {
            self.line(&format!("note: {note}"));
        }
    }

    /// Writes one line per warning, quiet or not.
    pub fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            write_stderr(&(self.wording)(&format!("warning: {warning}")));
        }
    }

    /// Writes a line to stderr, unless quiet.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            write_stderr(&(self.wording)(text));
        }
    }

    /// Writes the last line of a command that wrote something.
    pub fn done(&self, text: &str) {
        self.line(&format!("done: {text}"));
    }

    /// Starts a bar over `total` bytes.
    pub fn bytes_bar(&self, verb: &str, total: u64) -> ProgressBar {
        self.bar(
            verb,
            total,
            "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {left}",
        )
    }

    /// Starts a bar over `total` steps.
    pub fn steps_bar(&self, verb: &str, total: u64) -> ProgressBar {
        self.bar(verb, total, "{msg} [{bar:30}] {pos}/{len} {per_sec} eta {left}")
    }

    /// Starts a bar that shows percent, for work whose units mean nothing to the user.
    pub fn share_bar(&self, verb: &str) -> ProgressBar {
        self.bar(verb, 1, "{msg} [{bar:30}] {percent} % elapsed {elapsed} eta {left}")
    }

    fn bar(&self, verb: &str, total: u64, template: &str) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.remaining.lock().unwrap_or_else(PoisonError::into_inner).enter_bar(verb, Instant::now());
        let (remaining, name) = (Arc::clone(&self.remaining), verb.to_owned());
        let write_remaining = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let remaining = remaining.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody is there to take an error.
            let _ = out.write_str(&format_remaining(state, &name, &remaining));
        };
        let style = style.with_key("left", write_remaining);
        let style = if unicode_bars() { style } else { style.progress_chars("#>.") };
        let target = ProgressDrawTarget::stderr();
        ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(verb.to_owned())
    }
}

impl Progress for Console {
    fn notes(&self, notes: &[String]) {
        Self::notes(self, notes);
    }

    fn line(&self, text: &str) {
        Self::line(self, text);
    }

    fn begin_job(&self, stages: &[StageEstimate]) {
        Self::begin_job(self, stages);
    }

    fn stage(&self, name: &str) {
        Self::stage(self, name);
    }

    fn steps_bar(&self, verb: &str, total: u64) -> Arc<dyn Bar> {
        Arc::new(Self::steps_bar(self, verb, total))
    }

    fn bytes_bar(&self, verb: &str, total: u64) -> Arc<dyn Bar> {
        Arc::new(Self::bytes_bar(self, verb, total))
    }

    fn share_bar(&self, verb: &str) -> Arc<dyn Bar> {
        Arc::new(Self::share_bar(self, verb))
    }
}

impl Bar for ProgressBar {
    fn inc(&self, steps: u64) {
        Self::inc(self, steps);
    }

    fn set(&self, done: u64, total: u64) {
        self.set_length(total);
        self.set_position(done);
    }

    fn describe(&self, text: String) {
        self.set_message(text);
    }

    fn finish(&self) {
        self.finish_and_clear();
    }
}

/// Formats the remaining time as `5s`, in a job of several stages as `5s, job 32s`; `-` for a bar before its first
/// step. `name` are the words before the bar at its start.
fn format_remaining(state: &ProgressState, name: &str, remaining: &RemainingTime) -> String {
    let bar = (state.pos() > 0).then(|| state.eta());
    let drawn = BarState { name, elapsed: state.elapsed(), fraction: f64::from(state.fraction()) };
    // The rate of the first two seconds is no estimate.
    let reliable = Some(drawn).filter(|bar| bar.elapsed > Duration::from_secs(2));
    let job = remaining.at(reliable, Instant::now());
    let bar_text = bar.map_or_else(|| "-".to_owned(), |bar| format!("{:#}", HumanDuration(bar)));
    match job {
        Some(job) => format!("{bar_text}, job {:#}", HumanDuration(job)),
        None => bar_text,
    }
}

/// True while the last line on stdout has no end.
static LINE_IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Writes data to stdout.
///
/// # Errors
/// [`ErrorKind::ClosedPipe`](crate::error::ErrorKind) where the reader has closed the pipe, as in
/// `mixbit inspect | head`.
pub fn out(text: &str) -> Result<()> {
    if let Some(last) = text.chars().last() {
        LINE_IS_OPEN.store(last != '\n', Ordering::Relaxed);
    }
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::closed_pipe()),
        other => other.map_err(|e| Error::io("stdout", e)),
    }
}

/// Writes the error and its hint to stderr. A text on stdout that is not finished ends its line before.
pub fn error(error: &Error) {
    if LINE_IS_OPEN.load(Ordering::Relaxed) {
        // The error matters more than that nobody reads the text.
        let _ = out("\n");
    }
    write_stderr(&format!("error: {error}"));
    if let Some(hint) = error.hint_text() {
        write_stderr(&format!("hint: {hint}"));
    }
}

/// Writes a line to stderr. If nobody reads it (`mixbit run 2>&1 | head`), the work continues.
fn write_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
