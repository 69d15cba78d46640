//! How long a job will take here and how much memory it needs: operations counted from the shapes, over rates that were
//! measured for a moment on this machine.
mod estimate;
mod memory;
mod operations;
mod rates;
mod time;

pub use estimate::Work;
pub use rates::announce;
