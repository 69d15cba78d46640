//! mixbit turns a Hugging Face checkpoint into an MLX model of a chosen size and proves what that cost.
//!
//! ```text
//! checkpoint -> config -> decoder spec -> [engine] sensitivity table -> allocation -> bit map -> quantized tensors -> checkpoint
//!                                                                                          `-> load -> run / logits
//! ```
//!
//! Every arrow is a plain type or a tensor stream, so each stage runs alone and is tested alone. Only [`engine`] uses
//! MLX; everything else is plain Rust and works without the engine's libraries.

pub mod error;
pub mod interrupt;
pub mod progress;
pub mod system;
pub mod words;

pub mod numerics;

pub mod files;

pub mod formats;

pub mod models;

pub mod text;

pub mod choose;

pub mod engine;

pub mod jobs;

pub mod report;

pub mod cli;

pub use error::{Error, Result};
