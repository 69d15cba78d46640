//! The text that sensitivities are measured on, as token sequences of one length.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The separator of documents in a plain text: a line of its own.
pub const DOCUMENT_SEPARATOR: &str = "<|endoftext|>";

/// Prose, code, mathematics and dialogue in several languages, so that the tool works without a text.
const DEFAULT_TEXT: &str = include_str!("default.txt");

/// A text, and what to call it in messages.
#[derive(Debug, Clone)]
pub struct Text {
    name: String,
    contents: String,
    own: bool,
}

impl Text {
    /// The file at `path`, or the text that mixbit carries.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                name: "the built-in text".to_owned(),
                contents: DEFAULT_TEXT.to_owned(),
                own: true,
            });
        };
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let contents = String::from_utf8(bytes).map_err(|e| {
            Error::file(path, format!("is not UTF-8 text: byte {}", e.utf8_error().valid_up_to()))
                .hint("calibration takes plain UTF-8 text")
        })?;
        if contents.trim().is_empty() {
            return Err(Error::file(path, "is empty").hint("calibration takes plain UTF-8 text"));
        }
        Ok(Self { name: path.display().to_string(), contents, own: false })
    }

    /// All tokens: each document tokenized on its own with the tokenizer's own BOS rule, then concatenated.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for document in documents(&self.contents) {
            tokens.extend(tokenizer.encode(document, true)?);
        }
        Ok(tokens)
    }

    /// Consecutive windows of `length` tokens from the start, of `max_tokens` tokens at most. What is left over at the end
    /// is dropped, unless it is all there is.
    pub fn windows(
        &self,
        tokenizer: &Tokenizer,
        length: usize,
        max_tokens: Option<usize>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut tokens = self.tokens(tokenizer)?;
        tokens.truncate(max_tokens.unwrap_or(usize::MAX));
        if tokens.len() < 2 {
            return Err(Error::usage(format!(
                "{} has {} tokens, at least 2 are needed",
                self.name,
                tokens.len()
            )));
        }
        if tokens.len() < length {
            return Ok(vec![tokens]);
        }
        Ok(tokens.chunks_exact(length).map(<[u32]>::to_vec).collect())
    }

    /// `samples` sequences of `length` tokens, spread evenly over the text from a start that `seed` chooses. The
    /// built-in text gives as many as it has.
    pub fn sequences(
        &self,
        tokenizer: &Tokenizer,
        samples: usize,
        length: usize,
        seed: u64,
    ) -> Result<Vec<Vec<u32>>> {
        let tokens = self.tokens(tokenizer)?;
        let windows: Vec<&[u32]> = tokens.chunks_exact(length).collect();
        if windows.is_empty() || (windows.len() < samples && !self.own) {
            return Err(Error::usage(format!(
                "{} has {} tokens, {} sequences of {length}; {samples} were asked for",
                self.name,
                tokens.len(),
                windows.len()
            ))
            .hint("give a longer --calibration text, or fewer --samples or a smaller --sequence-length"));
        }
        let count = samples.min(windows.len());
        let start = fastrand::Rng::with_seed(seed).usize(..windows.len());
        let chosen =
            (0..count).map(|i| windows[(start + i * windows.len() / count) % windows.len()].to_vec());
        Ok(chosen.collect())
    }
}

/// The documents of a plain text.
pub fn documents(text: &str) -> impl Iterator<Item = &str> {
    let separated = text.split(DOCUMENT_SEPARATOR);
    separated.map(|document| document.trim_matches('\n')).filter(|document| !document.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_separated_by_their_line() {
        let found: Vec<&str> = documents("a\nb\n<|endoftext|>\n\nc\n<|endoftext|>\n").collect();
        assert_eq!(found, ["a\nb", "c"]);
    }
}
