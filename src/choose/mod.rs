//! Choice of each layer's bits: candidates, sensitivity tables, allocation, plans, rules and recipes. Arithmetic only.
pub mod allocate;
pub mod candidate;
pub mod correction;
pub mod curve;
pub(crate) mod learned;
pub mod plan;
pub mod recipe;
pub mod rules;
pub mod scores;
pub mod table;
pub mod table_journal;

pub use candidate::DEFAULT_CANDIDATES;
pub use plan::Plan;
