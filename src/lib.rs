//! mixbit turns a Hugging Face checkpoint into an MLX model of a chosen size and proves what that cost.
//!
//! ```text
//! checkpoint -> config -> decoder spec -> [engine] sensitivity table -> allocation -> bit map -> quantized tensors -> checkpoint
//!                                                                                          `-> load -> run / logits
//! ```
//!
//! Every arrow is a plain type or a tensor stream, so each stage runs alone and is tested alone. Only [`engine`] uses
//! MLX; everything else is plain Rust and works without the engine's libraries.

pub mod affine;
pub mod allocate;
pub mod answer;
pub mod bitmap;
pub mod candidate;
pub mod chat;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod contents;
pub mod correction;
pub mod differences;
pub mod digest;
pub mod engine;
pub mod error;
pub mod estimate;
pub mod evaluation;
pub mod export;
pub mod html;
pub mod hub;
pub mod interrupt;
pub mod inventory;
pub mod json;
pub mod kept_layers;

pub mod kept_rounds;
mod lfs_pointer;
pub mod microscaling;
pub mod model_files;
pub mod models;
pub mod nearest;
mod npy;
pub mod output_file;
pub mod plan;
pub mod plural;
pub mod recipe;
pub mod record;
pub mod report;
pub mod rounding;
pub mod rules;
pub mod sample;
pub mod sensitivity;
pub mod spec;
pub mod spool;
pub mod statistics;
pub mod stop_tokens;
mod system;
pub mod text;
pub mod tokenizer;
pub mod tuning;
mod vector;
pub mod weights;

pub use error::{Error, Result};
