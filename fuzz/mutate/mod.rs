//! Mutations of a file: of its bytes, and of their meaning. All randomness comes from the generator that is passed in.

mod archive;
mod bytes;
mod json;
mod safetensors;
mod text;
mod words;

use fastrand::Rng;

/// Kind of a file, which decides how it is mutated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON file of a model: config, index, settings of the tokenizer.
    Json,
    /// JSON of a tokenizer, whose types are named in it.
    Tokenizer,
    /// JSON, one object per line.
    Lines,
    /// A Jinja template.
    Template,
    /// TOML.
    Toml,
    /// Tensors behind a JSON header.
    Safetensors,
    /// A ZIP: weights or token ids of numpy, or a pack.
    Archive,
    /// An array of numpy.
    Array,
    /// A binary header, and tensors behind it.
    Gguf,
}

/// Returns one mutation of `original`: usually damaged, sometimes only changed.
pub fn mutate(kind: Kind, original: &[u8], rng: &mut Rng) -> Vec<u8> {
    if rng.u8(..4) == 0 {
        return bytes::mutate(original, rng);
    }
    match kind {
        Kind::Json => json::mutate(original, words::CONFIG, rng),
        Kind::Tokenizer => json::mutate(original, words::TOKENIZER, rng),
        Kind::Lines => json::mutate_line(original, rng),
        // Each takes as long as a hundred others.
        Kind::Template if rng.u8(..100) == 0 => text::mutate(original, words::ENDLESS, rng),
        Kind::Template => text::mutate(original, words::TEMPLATE, rng),
        Kind::Toml => text::mutate(original, words::TOML, rng),
        Kind::Safetensors => safetensors::mutate(original, rng),
        Kind::Archive => archive::mutate(original, rng),
        Kind::Array => archive::mutate_array(original, rng),
        Kind::Gguf => bytes::mutate_start(original, rng),
    }
}

/// Returns one of `all`, which are not empty.
fn one_of<'a, T: ?Sized>(all: &[&'a T], rng: &mut Rng) -> &'a T {
    all[rng.usize(..all.len())]
}
