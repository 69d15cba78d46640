//! Notes, errors and progress on stderr; data on stdout.

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::paint::unicode_bars;
use crate::error::{Error, Result};
use crate::progress::{Bar, Progress};

/// Where a command speaks to the user.
#[derive(Debug)]
pub struct Console {
    quiet: bool,
    ahead: Arc<Mutex<Ahead>>,
}

impl Console {
    /// `quiet` leaves data and errors.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, ahead: Arc::default() }
    }

    /// From here on bars say what is left of the whole job too, by the `stages` of its estimate and what its stages take.
    pub fn begin_job(&self, stages: &[(&'static str, Duration)]) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Ahead::new(stages.to_vec());
    }

    /// A stage of the estimate begins.
    pub fn stage(&self, name: &str) {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).enter(name, Instant::now());
    }

    /// One line each that the user should know.
    pub fn notes(&self, notes: &[String]) {
        for note in notes {
            self.line(&format!("note: {note}"));
        }
    }

    /// One line each that the user must see, quiet or not.
    pub fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            say(&format!("warning: {warning}"));
        }
    }

    /// A line on stderr.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// The last line of a command that wrote something.
    pub fn done(&self, text: &str) {
        self.line(&format!("done: {text}"));
    }

    /// A bar over bytes.
    pub fn bytes_bar(&self, verb: &str, total: u64) -> ProgressBar {
        self.bar(
            verb,
            total,
            "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {left}",
        )
    }

    /// A bar over steps.
    pub fn steps_bar(&self, verb: &str, total: u64) -> ProgressBar {
        self.bar(verb, total, "{msg} [{bar:30}] {pos}/{len} {per_sec} eta {left}")
    }

    /// A bar over work whose units say nothing.
    pub fn share_bar(&self, verb: &str) -> ProgressBar {
        self.bar(verb, 1, "{msg} [{bar:30}] {percent} % elapsed {elapsed} eta {left}")
    }

    fn bar(&self, verb: &str, total: u64, template: &str) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let ahead = Arc::clone(&self.ahead);
        let left = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let ahead = ahead.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody is there to take an error.
            let _ = out.write_str(&left(state, &ahead));
        };
        let style = style.with_key("left", left);
        let style = if unicode_bars() { style } else { style.progress_chars("#>.") };
        let target = ProgressDrawTarget::stderr();
        ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(verb.to_owned())
    }
}

/// Moves a bar to `done` of `total`.
pub fn show_progress(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}

impl Progress for Console {
    fn notes(&self, notes: &[String]) {
        Self::notes(self, notes);
    }

    fn line(&self, text: &str) {
        Self::line(self, text);
    }

    fn begin_job(&self, stages: &[(&'static str, Duration)]) {
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

/// `5s`, in a job of several stages `5s, job 32s`; before there is a first step nothing is known of the bar itself.
fn left(state: &ProgressState, ahead: &Ahead) -> String {
    let bar = (state.pos() > 0).then(|| state.eta());
    // The first steps say little.
    let telling = bar.filter(|_| state.elapsed() > Duration::from_secs(2));
    let job = ahead.left(telling.unwrap_or_default(), Instant::now());
    let own = bar.map_or_else(|| "-".to_owned(), |bar| format!("{:#}", HumanDuration(bar)));
    job.map_or(own.clone(), |job| format!("{own}, job {:#}", HumanDuration(job)))
}

/// Writes data to stdout.
///
/// # Errors
/// [`ErrorKind::ClosedPipe`](crate::error::ErrorKind) where nobody reads on, as in `mixbit inspect | head`.
pub fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::closed_pipe()),
        other => other.map_err(|e| Error::io("stdout", e)),
    }
}

/// The error and its hint.
pub fn error(error: &Error) {
    say(&format!("error: {error}"));
    if let Some(hint) = error.hint_text() {
        say(&format!("hint: {hint}"));
    }
}

/// A line on stderr. If nobody reads it (`mixbit run 2>&1 | head`), the work goes on.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
