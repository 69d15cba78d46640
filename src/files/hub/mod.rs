//! Models on the Hugging Face Hub: names, settings, cache, downloads and uploads.
//!
//! Downloads go into the cache that Python's huggingface_hub uses as well; the hf-hub crate knows its layout, and the
//! Hub's addresses. Requests go through the HTTP client that it brings along: its own hand the token to whatever store
//! the Hub redirects to, and wait for ever.
mod client;
mod download;
mod gguf;
mod headers;
mod lfs;
mod name;
mod reader;
mod settings;
mod transfer;
mod upload;

pub use headers::Headers;
pub use name::{Located, Need, Repository, hides_a_name, locate};
pub use settings::Settings;
pub use upload::{Upload, upload};
