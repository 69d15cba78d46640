//! Quantizing a model: reachable sizes, sensitivities, allocation, rounding, fine-tuning, proof.
pub mod distill;
pub mod estimate;
pub mod inputs;
pub mod job;
pub mod kept_layers;
pub mod kept_rounds;
pub mod proof;
pub mod refine;
pub mod round;
pub mod settings;
pub mod stage;
pub mod tuning;
pub mod unfinished;
pub mod write;

pub use estimate::Extent;
pub use job::{Decision, Job};
pub use settings::{EvaluationText, Output, Quantization};
