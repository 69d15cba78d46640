//! Tests of the functions that native/ puts in MLX's place on Linux.
pub mod exponentials;
pub mod fast;
