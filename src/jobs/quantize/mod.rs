//! Quantizing a model: reachable sizes, sensitivities, allocation, rounding, fine-tuning, proof.
pub(crate) mod distill;
pub(crate) mod estimate;
pub(crate) mod inputs;
pub(crate) mod job;
pub(crate) mod proof;
pub(crate) mod refine;
pub(crate) mod refinement_journal;
pub(crate) mod round;
pub(crate) mod rounding_journal;
pub(crate) mod settings;
pub(crate) mod stage;
pub(crate) mod tuning;
pub(crate) mod unfinished;
mod whole;
pub(crate) mod write;

pub use estimate::Extent;
pub use job::{Decision, Job};
pub use settings::{EvaluationText, Quantization};
pub use whole::{QuantizedModel, quantize};
