//! Quantizing a model: reachable sizes, sensitivities, allocation, rounding, fine-tuning, evaluation.
pub(crate) mod blocks;
pub(crate) mod codes;
pub(crate) mod distill;
pub(crate) mod estimate;
pub(crate) mod evaluation_windows;
pub(crate) mod inputs;
pub(crate) mod job;
pub(crate) mod layer_journal;
mod quantized_model;
pub(crate) mod refine;
pub(crate) mod refinement_journal;
pub(crate) mod round;
pub(crate) mod settings;
pub(crate) mod split;
pub(crate) mod stage;
pub(crate) mod start;
pub(crate) mod tuning;
pub(crate) mod unfinished;
pub(crate) mod write;

pub use estimate::Extent;
pub use job::{Decision, Job};
pub use quantized_model::{QuantizedModel, quantize};
pub use settings::{EvaluationText, Quantization};
pub(crate) use unfinished::explain_existing;
