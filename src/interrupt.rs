//! A request to stop: the work looks for it now and then, ends with an error, and cleans up after itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::error::{Error, Result};

/// How often [`run`] looks.
const POLL: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks the work to stop. Returns whether it was asked before and has not noticed yet.
pub fn request() -> bool {
    INTERRUPTED.swap(true, Ordering::SeqCst)
}

/// Whether a stop was requested since this was last asked.
pub fn take() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Fails if a stop was requested. Called between chunks, blocks and tokens.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
}

/// Runs `work`, which cannot look for a request itself, on a thread of its own, and does not wait for it once there is one.
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
