//! Unfinished work in a file beside the output, so that an interrupted run can be resumed.
mod contents;
mod header;
mod journal;
mod messages;

pub use contents::{Entry, damaged};
pub use header::{ANEW, Header, MODEL};
pub use journal::{Journal, Start, discard, remove};
pub use messages::{nothing_to_resume, resume_after, unfinished, with_kept_work};
