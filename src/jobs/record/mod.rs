//! `mixbit-report.json`: settings, prediction and measurements of a quantization. Written beside the weights by
//! `mixbit quantize`, drawn by `mixbit report`.
mod feedback;
mod record;

pub use feedback::Feedback;
pub use record::{Distillation, Evaluation, FILE, Record, Refinement, RefinementRound, VERSION, Wanted};
