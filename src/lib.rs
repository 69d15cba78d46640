//! mixbit turns a Hugging Face checkpoint into an MLX model of a chosen size and proves what that cost.
//!
//! ```text
//! checkpoint -> config -> decoder spec -> [engine] sensitivity table -> allocation -> bit map -> quantized tensors -> checkpoint
//!                                                                                          `-> load -> run / logits
//! ```
//!
//! Every arrow is a plain type or a tensor stream, so each stage is tested alone. [`jobs`] is the face of the library: what
//! mixbit does, without a terminal. [`choose`] decides what every layer gets, [`models`] knows architectures, and
//! [`numerics`] the formats of quantized weights. Other modules are public for this package's own binary, tests and
//! benchmarks; they are not part of the interface.
//!
//! The main job, from a folder with a Hugging Face checkpoint to a quantized model:
//!
//! ```no_run
#![doc = include_str!("../examples/quantize.rs")]
//! ```

pub mod error;
pub mod interrupt;
pub mod progress;
#[doc(hidden)]
pub mod system;
#[doc(hidden)]
pub mod words;

pub mod numerics;

#[doc(hidden)]
pub mod files;

#[doc(hidden)]
pub mod formats;

pub mod models;

#[doc(hidden)]
pub mod text;

pub mod choose;

#[doc(hidden)]
pub mod engine;

pub mod jobs;

#[doc(hidden)]
pub mod report;

#[doc(hidden)]
pub mod cli;

pub use error::{Error, Result};
