//! `mixbit quantize`: arguments to settings, flags that would have no effect, estimate and report.
pub mod command;
pub mod idle;
pub mod report;
