//! Ctrl-C (and SIGTERM, SIGHUP): the first asks the work to stop and clean up after itself, the second stops at once. In
//! a conversation Ctrl-C stops the answer, and the other two the program.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

/// How often [`run`] looks.
const POLL: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether Ctrl-C stops answers.
static CONVERSATION: AtomicBool = AtomicBool::new(false);
/// Whether Ctrl-C, pressed again before the work has noticed, stops the program.
static IMPATIENT: AtomicBool = AtomicBool::new(true);

/// What the shell calls a program that Ctrl-C has ended.
const EXIT_CODE: i32 = 130;

/// Installs the handler. Call once, from `main`.
pub fn install() {
    // Past a limit on file sizes this would end the program, with what it was writing left behind: with a handler the write
    // fails instead.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    // Without a handler Ctrl-C still stops the program, only less cleanly.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    std::thread::spawn(move || signals.forever().for_each(handle));
}

fn handle(signal: i32) {
    let again = INTERRUPTED.swap(true, Ordering::SeqCst);
    let conversation = CONVERSATION.load(Ordering::SeqCst);
    if (conversation && signal != SIGINT) || (again && IMPATIENT.load(Ordering::SeqCst)) {
        std::process::exit(EXIT_CODE);
    }
    if !conversation {
        let _ = writeln!(std::io::stderr(), "\ninterrupted: stopping (once more to stop at once)");
    }
}

/// From now on Ctrl-C stops an answer and not the program. Where there is another way out, as there is at a terminal,
/// `always`; else a second one while the first is waiting to be noticed stops the program.
pub fn converse(always: bool) {
    CONVERSATION.store(true, Ordering::SeqCst);
    IMPATIENT.store(!always, Ordering::SeqCst);
}

/// Whether Ctrl-C was pressed since this was last asked.
pub fn take() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Fails if Ctrl-C was pressed. Called between chunks, blocks and tokens.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}

/// Runs `work`, which cannot look for Ctrl-C itself, on a thread of its own, and does not wait for it once Ctrl-C was pressed.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()));
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) => check()?,
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(_) => return Err(Error::interrupted()),
            },
        }
    }
}
