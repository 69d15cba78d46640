//! Jobs without a terminal: quantize, write, evaluate, check, estimate, record.
pub mod check;
pub mod estimate;
pub mod evaluation;
pub mod measure;
pub mod opening;
pub mod quantize;
pub mod record;
pub mod scoring;
pub mod settings;
pub mod template;
pub mod texts;
pub mod write;
