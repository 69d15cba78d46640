//! Recipes: what layers may become, and how it is measured, in a TOML file. quant-recipes/README.md is the format's
//! documentation; [`BUILTIN`] are the ones that mixbit carries.
//!
//! A recipe is read and checked on its own here ([`Recipe::load`]); [`Recipe::apply`] holds it against a model.
mod apply;
mod blocks;
mod builtin;
mod document;
mod parse;
mod recipe;
#[cfg(test)]
mod tests;
mod tuning;

pub use apply::{Applied, Tie};
pub use blocks::Blocks;
pub use builtin::BUILTIN;
pub use recipe::{Calibration, Recipe};
pub use tuning::{Learn, Quality, Tuning};
