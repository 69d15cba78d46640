//! Ctrl-C (and SIGTERM, SIGHUP): the first asks the work to stop and clean up after itself, the second ends the program
//! at once. In a conversation Ctrl-C stops the answer, and the other two the program.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::interrupt;

/// True while Ctrl-C stops answers.
static CONVERSATION: AtomicBool = AtomicBool::new(false);
/// True while Ctrl-C, pressed again before the work has noticed, stops the program.
static IMPATIENT: AtomicBool = AtomicBool::new(true);

/// The signal that came last.
static SIGNAL: AtomicI32 = AtomicI32::new(SIGINT);

/// Returns the exit code of a program that a signal has stopped, as shells report it: 130 after Ctrl-C, 143 after SIGTERM.
pub fn exit_code() -> u8 {
    const SIGNALLED: i32 = 128;
    (SIGNALLED + SIGNAL.load(Ordering::SeqCst)) as u8
}

/// Installs the handler. Call once, from `main`.
pub fn install() {
    // Past a limit on file sizes this signal ends the program and leaves a half-written file behind; with a handler the
    // write fails instead.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    // Without a handler Ctrl-C still stops the program, only less cleanly.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    std::thread::spawn(move || signals.forever().for_each(handle));
}

fn handle(signal: i32) {
    SIGNAL.store(signal, Ordering::SeqCst);
    let again = interrupt::request();
    let conversation = CONVERSATION.load(Ordering::SeqCst);
    if (conversation && signal != SIGINT) || (again && IMPATIENT.load(Ordering::SeqCst)) {
        std::process::exit(exit_code().into());
    }
    if !conversation {
        let _ = writeln!(std::io::stderr(), "\ninterrupted: stopping (once more to stop at once)");
    }
}

/// Effect of a second Ctrl-C before the work has noticed the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondInterrupt {
    /// Nothing: at a terminal there is another way out.
    Ignored,
    /// The program ends.
    EndsProgram,
}

/// Lets Ctrl-C stop an answer and not the program from now on.
pub fn converse(second: SecondInterrupt) {
    CONVERSATION.store(true, Ordering::SeqCst);
    IMPATIENT.store(second == SecondInterrupt::EndsProgram, Ordering::SeqCst);
}
