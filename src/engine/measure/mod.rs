//! What rounding a layer costs, from gradients.
pub mod compare;
pub mod factors;
pub mod scores;
pub mod sensitivities;
pub mod settings;
pub mod swaps;
pub mod whole_models;
