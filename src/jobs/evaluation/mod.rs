//! Evaluation of a model on a text: perplexity, and the distance from a reference, token by token.
//!
//! All figures are computed from logits, whoever computes those. The set of figures against a reference is that of
//! llama.cpp's `llama-perplexity --kl-divergence`, over every position of every window but the last.
mod histogram;
mod reference;
mod scores;
mod summary;

pub use histogram::Histogram;
pub use reference::{Reference, ReferenceWriter};
pub use scores::{NotFinite, Scores};
pub use summary::{Divergence, Summary};
