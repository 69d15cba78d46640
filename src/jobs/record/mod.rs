//! `mixbit-report.json`: settings, prediction and measurements of a quantization. Written beside the weights by
//! `mixbit quantize`, drawn by `mixbit report`.
mod gptq_stats;
mod record;

pub use gptq_stats::GptqStats;
pub use record::{
    Distillation, Evaluation, FILE, LearnedBlocks, LearnedCodes, Record, Refinement, RefinementRound,
    VERSION, Wanted,
};
