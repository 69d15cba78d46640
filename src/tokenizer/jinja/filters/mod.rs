//! Filters.

pub(super) mod markup;
mod numbers;
pub(super) mod order;
mod sequences;
mod table;
mod text;
mod wrap;

pub(super) use table::{ALL, find};
