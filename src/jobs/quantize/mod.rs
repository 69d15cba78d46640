//! Quantizing a model: reachable sizes, sensitivities, allocation, rounding, fine-tuning, proof.
pub mod distill;
pub mod inputs;
pub mod job;
pub mod proof;
pub mod refine;
pub mod refinement_journal;
pub mod round;
pub mod rounding_journal;
pub mod stage;
pub mod tuning;
pub mod unfinished;
pub mod write;
