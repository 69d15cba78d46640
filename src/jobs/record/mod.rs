//! `mixbit-report.json`: how a model was made, what it was predicted to cost and what was measured. Written beside the
//! weights by `mixbit quantize`, drawn by `mixbit report`.
mod feedback;
mod record;

pub use feedback::Feedback;
pub use record::{Distillation, Evaluation, FILE, Record, Refinement, RefinementRound, VERSION, Wanted};
