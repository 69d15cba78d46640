//! Filters.

pub(crate) mod markup;
mod numbers;
pub(crate) mod order;
mod sequences;
pub(crate) mod table;
mod text;
mod urlize;
mod wrap;
