//! Choosing the next token from its logits.
//!
//! Everything happens on logits: biases and penalties ([`Penalties`]), temperature, then masks that set logits to minus
//! infinity, then a draw from the softmax of what is left. (Masking probabilities and drawing from them as if they were
//! logits, an old bug of the ports that this project comes from, gives another distribution.)
mod logprobs;
mod penalties;
mod sampler;

pub use logprobs::Logprobs;
pub use penalties::{Penalties, Repetition};
pub use sampler::{Chosen, Sampler, Sampling, argmax, categorical};
