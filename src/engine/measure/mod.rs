//! Measurements of the cost of rounding layers, from gradients and by running rounded models.
pub mod compare;
pub mod factors;
pub mod scores;
pub mod sensitivities;
pub mod settings;
pub mod swaps;
pub mod whole_models;
