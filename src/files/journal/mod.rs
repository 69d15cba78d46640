//! Unfinished work in a file beside the output, so that an interrupted run can be resumed.
mod header;
mod journal;

pub use header::{ANEW, Header};
pub use journal::{Entry, Journal, Start, damaged, remove, resume_after, unfinished};
