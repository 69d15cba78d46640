//! Ctrl-C (and SIGTERM, SIGHUP): the first asks the work to stop and clean up after itself, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler. Call once, from `main`.
pub fn install() {
    // Without a handler Ctrl-C still stops the program, only less cleanly.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\ninterrupted: stopping (once more to stop at once)");
    });
}

/// Fails if Ctrl-C was pressed. Called between chunks, blocks and tokens.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}
