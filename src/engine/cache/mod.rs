//! Keys and values of past tokens: per layer, per sequence, as arrays and as files.
pub mod arrays;
pub mod layer;
pub mod sequence;
