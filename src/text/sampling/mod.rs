//! Choice of the next token from its logits.
//!
//! All steps work on logits: biases and penalties ([`Penalties`]), temperature, then masks that set logits to minus
//! infinity, then a draw from the softmax of the remaining ones. (Masking probabilities and drawing from them as if
//! they were logits would give another distribution.)
mod logprobs;
mod penalties;
mod sampler;

pub use logprobs::Logprobs;
pub use penalties::{Penalties, Repetition};
pub use sampler::{Chosen, Sampler, Sampling, are_numbers, argmax, categorical};
