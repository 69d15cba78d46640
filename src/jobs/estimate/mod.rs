//! Time and memory that a job takes on this machine: operations counted from the shapes, over rates that were
//! measured for a moment on this machine.
mod estimate;
mod memory;
mod operations;
mod rates;
mod time;

pub use estimate::Work;
pub use rates::announce;
