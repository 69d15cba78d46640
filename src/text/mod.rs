//! Texts to calibrate and to evaluate on, as windows of tokens.
//!
//! A text is a file in one of three forms:
//! - plain UTF-8, documents separated by a line that is exactly `<|endoftext|>`;
//! - JSONL ([`jsonl`]): an object a line, with `text` or `messages`;
//! - token ids ([`token_ids`]): an integer array in an .npy or .npz.
//!
//! Each document is tokenized on its own with the tokenizer's own BOS rule; the tokens of all are concatenated and cut
//! into windows of one length ([`windows`]), spread over the text for calibration, from its start for evaluation.

mod jsonl;
mod plain;
mod token_ids;
mod windows;

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use plain::{DOCUMENT_SEPARATOR, documents};
pub use windows::{HELD_OUT_EVERY, Split, Windows};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use jsonl::Record;

/// Prose, code, mathematics and dialogue in several languages, so that the tool works without a text.
const DEFAULT_TEXT: &str = include_str!("default.txt");

/// Documents that are tokenized before it is looked at whether there are tokens enough.
const BATCH: usize = 256;

/// A text, and what to call it in messages.
#[derive(Debug, Clone)]
pub struct Text {
    /// `None`: the text that mixbit carries.
    path: Option<PathBuf>,
    contents: Contents,
}

#[derive(Debug, Clone)]
enum Contents {
    Plain(String),
    Records(Vec<Record>),
    Tokens(Vec<u32>),
}

impl Text {
    /// The file at `path`, or the text that mixbit carries.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, is not UTF-8, or is JSONL or an array with something else in it than
    /// it should have; JSONL's errors name line and key.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self { path: None, contents: Contents::Plain(DEFAULT_TEXT.to_owned()) });
        };
        let bytes = fs::read(path).map_err(|e| Error::io(path, e).hint(FORMS))?;
        let contents = match token_ids::read(path, &bytes)? {
            Some(tokens) => Contents::Tokens(tokens),
            None => Self::characters(path, bytes)?,
        };
        Ok(Self { path: Some(path.to_owned()), contents })
    }

    fn characters(path: &Path, bytes: Vec<u8>) -> Result<Contents> {
        let mut text = String::from_utf8(bytes).map_err(|e| {
            Error::file(path, format!("is not UTF-8 text: byte {}", e.utf8_error().valid_up_to())).hint(FORMS)
        })?;
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        if documents(&text).next().is_none() || text.trim().is_empty() {
            return Err(Error::file(path, "is empty").hint(FORMS));
        }
        if jsonl::is_jsonl(path, &text) {
            return Ok(Contents::Records(jsonl::read(path, &text)?));
        }
        Ok(Contents::Plain(text))
    }

    /// The text that mixbit carries.
    pub const fn built_in() -> &'static str {
        DEFAULT_TEXT
    }

    /// What to call it in messages: the file's path, or `the built-in text`.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "the built-in text".to_owned(), |path| path.display().to_string())
    }

    /// Whether this is the text that mixbit carries.
    pub fn is_built_in(&self) -> bool {
        self.path.is_none()
    }

    /// `plain text`, `JSONL` or `token ids`.
    pub fn form(&self) -> &'static str {
        match self.contents {
            Contents::Plain(_) => "plain text",
            Contents::Records(_) => "JSONL",
            Contents::Tokens(_) => "token ids",
        }
    }

    /// All tokens: each document tokenized on its own with the tokenizer's own BOS rule (conversations: as the chat
    /// template writes them), then concatenated. Token ids of an array are not checked against the vocabulary.
    ///
    /// # Errors
    /// When the tokenizer fails, or there are `messages` and no chat template that takes them.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        self.first_tokens(tokenizer, usize::MAX)
    }

    /// The first `most` of [`tokens`](Self::tokens), without tokenizing what comes long after.
    fn first_tokens(&self, tokenizer: &Tokenizer, most: usize) -> Result<Vec<u32>> {
        let mut tokens = match &self.contents {
            Contents::Plain(text) => {
                let documents: Vec<&str> = documents(text).collect();
                tokenize(&documents, most, |document| tokenizer.encode(document, true))?
            }
            Contents::Records(records) => {
                let path = self.path.as_deref().unwrap_or(Path::new(""));
                tokenize(records, most, |record| record.tokens(path, tokenizer))?
            }
            Contents::Tokens(tokens) => tokens.get(..most).unwrap_or(tokens).to_vec(),
        };
        tokens.truncate(most);
        Ok(tokens)
    }
}

/// Tokenizes in parallel, batch after batch until there are `most` tokens; the first document that fails is the error.
fn tokenize<T: Sync>(
    documents: &[T],
    most: usize,
    encode: impl Fn(&T) -> Result<Vec<u32>> + Sync,
) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    for batch in documents.chunks(BATCH) {
        crate::interrupt::check()?;
        let encoded: Vec<Result<Vec<u32>>> = batch.par_iter().map(&encode).collect();
        for document in encoded {
            tokens.extend(document?);
        }
        if tokens.len() >= most {
            break;
        }
    }
    Ok(tokens)
}

/// What may be given, for hints.
const FORMS: &str = "give plain UTF-8 text, JSONL with `text` or `messages`, or token ids in an .npy or .npz";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub(super) fn tokenizer() -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        Tokenizer::from_dir(&dir).unwrap()
    }

    pub(super) fn open(name: &str, contents: &[u8]) -> Result<Text> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name);
        fs::write(&path, contents).unwrap();
        Text::open(Some(&path))
    }

    #[test]
    fn documents_are_tokenized_on_their_own() {
        let tokenizer = tokenizer();
        let text = open("a.txt", b"\xef\xbb\xbfone\n<|endoftext|>\ntwo <|endoftext|> three\n").unwrap();
        let mut expected = tokenizer.encode("one", true).unwrap();
        expected.extend(tokenizer.encode("two <|endoftext|> three", true).unwrap());
        assert_eq!(text.tokens(&tokenizer).unwrap(), expected);
        assert_eq!(expected.iter().filter(|&&id| id == 0).count(), 2, "one BOS a document");
        assert_eq!(text.first_tokens(&tokenizer, 4).unwrap(), expected[..4]);
    }

    #[test]
    fn batches_give_the_same_tokens() {
        let tokenizer = tokenizer();
        let documents: Vec<String> = (0..3 * BATCH).map(|i| format!("document {i}")).collect();
        let joined = documents.join("\n<|endoftext|>\n");
        let text = open("a.txt", joined.as_bytes()).unwrap();
        let all = text.tokens(&tokenizer).unwrap();
        let expected: Vec<u32> = documents.iter().flat_map(|d| tokenizer.encode(d, true).unwrap()).collect();
        assert_eq!(all, expected);
        assert_eq!(text.first_tokens(&tokenizer, 100).unwrap(), all[..100]);
    }

    #[test]
    fn what_cannot_be_a_text_is_refused() {
        for (contents, expected) in [
            (&b""[..], "is empty"),
            (b" \n\t\n", "is empty"),
            (b"<|endoftext|>\n<|endoftext|>\n", "is empty"),
            (b"ab\xff", "is not UTF-8 text: byte 2"),
        ] {
            let error = open("a.txt", contents).unwrap_err();
            assert!(error.to_string().ends_with(expected), "{error}");
            assert!(error.hint_text().unwrap().contains("JSONL"));
        }
    }
}
