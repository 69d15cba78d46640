//! Unfinished work in a file beside the output, so that an interrupted run can be resumed.
mod contents;
mod header;
mod journal;

pub use contents::{Entry, damaged};
pub use header::{ANEW, Header, MODEL};
pub use journal::{
    Journal, Start, discard, nothing_to_resume, remove, resume_after, unfinished, with_kept_work,
};
