//! From candidates and sensitivities to a bit map of a wanted size: arithmetic on sizes and the table, nothing else.
mod plan;
mod reach;
mod swap;

pub use plan::{Plan, Solution};
