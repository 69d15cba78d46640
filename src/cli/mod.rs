//! The command line: arguments, and one command per file that turns them into a job.
pub mod args;
pub mod commands;
pub mod signals;
