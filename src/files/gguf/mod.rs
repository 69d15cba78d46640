//! GGUF, llama.cpp's format: one file with weights, vocabulary and settings. Here it becomes the files of a Hugging Face model, but
//! for the weights' values, which are the formats' business.
pub mod architecture;
mod config;
mod config_of;
mod cursor;
mod files;
mod gguf;
mod header;
mod keys;
pub mod kind;
mod models;
mod names;
mod pre_tokenizer;
mod rope;
mod tokenizer;
mod value;
mod vocabulary;

pub use files::NAMES;
pub use gguf::{Gguf, Shard};
pub use header::Place;
pub use models::{has_other_weights, in_folder, is_gguf, models_among};
pub use names::Fate;
