//! How good a model is on a text: perplexity, and how far it is from a reference, token by token.
//!
//! Everything here works on logits; who computes them does not matter. The set of figures against a reference is that
//! of llama.cpp's `llama-perplexity --kl-divergence`, over every position of every window but the last.
mod histogram;
mod reference;
mod scores;
mod summary;

pub use histogram::Histogram;
pub use reference::{Reference, ReferenceWriter};
pub use scores::{NotFinite, Scores};
pub use summary::{Divergence, Summary};
