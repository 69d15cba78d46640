//! Texts and their forms, from file to tokens.

use super::plain::documents;
use rayon::prelude::*;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

use super::jsonl::Record;
use crate::error::{Error, Result};
use crate::files::lfs_pointer;
use crate::files::model_files::ModelFiles;
use crate::text::tokenizer::Tokenizer;

/// Largest number of tokens in a sequence that goes through a model at once: the masks of windows and chunks grow with
/// its square, and MLX counts in 32 bits.
pub const LONGEST_SEQUENCE: u32 = 32_768;

/// Built-in text: prose, code, mathematics and dialogue in several languages, so that the tool works without a file.
const DEFAULT_TEXT: &str = include_str!("default.txt");

/// Number of documents that are tokenized before each check whether there are enough tokens.
const BATCH: usize = 256;

/// Text to calibrate or to evaluate on: a file or the built-in text.
#[derive(Debug, Clone)]
pub struct Text {
    /// Path of the file; `None` for the built-in text.
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
    /// Reads the file at `path`, or takes the built-in text if there is no path.
    ///
    /// # Errors
    /// When the file cannot be read, is a Git LFS pointer, is empty, is not UTF-8, is a single JSON value with records,
    /// or is JSONL or an array with invalid contents; errors in JSONL name line and key.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self { path: None, contents: Contents::Plain(DEFAULT_TEXT.to_owned()) });
        };
        let bytes = fs::read(path).map_err(|e| unreadable(path, e))?;
        lfs_pointer::refuse(path, &bytes)?;
        let contents = match super::token_ids::read(path, &bytes)? {
            Some(tokens) => Contents::Tokens(tokens),
            None => Self::characters(path, bytes)?,
        };
        Ok(Self { path: Some(path.to_owned()), contents })
    }

    fn characters(path: &Path, bytes: Vec<u8>) -> Result<Contents> {
        let mut text = String::from_utf8(bytes).map_err(|e| not_text(path, &e))?;
        if text.starts_with('\u{feff}') {
            text.remove(0);
        }
        if documents(&text).next().is_none() || text.trim().is_empty() {
            return Err(Error::file(path, "is empty").hint(FORMS));
        }
        if super::jsonl::is_jsonl(path, &text) {
            return Ok(Contents::Records(super::jsonl::read(path, &text)?));
        }
        if super::jsonl::is_one_value(&text) {
            return Err(Error::file(path, "is one JSON value; JSONL has an object a line")
                .hint("`jq -c '.[]' FILE.json > FILE.jsonl` makes lines of a list"));
        }
        Ok(Contents::Plain(text))
    }

    /// Returns the built-in text.
    pub const fn built_in() -> &'static str {
        DEFAULT_TEXT
    }

    /// Returns the text's name for messages: the file's path, or `the built-in text`.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "the built-in text".to_owned(), |path| path.display().to_string())
    }

    /// True if this is the built-in text.
    pub fn is_built_in(&self) -> bool {
        self.path.is_none()
    }

    /// Returns the name of the text's form: `plain text`, `JSONL` or `token ids`.
    pub fn form(&self) -> &'static str {
        match self.contents {
            Contents::Plain(_) => "plain text",
            Contents::Records(_) => "JSONL",
            Contents::Tokens(_) => "token ids",
        }
    }

    /// True if the text has conversations, which the model's chat template writes out.
    pub fn has_conversations(&self) -> bool {
        match &self.contents {
            Contents::Records(records) => records.iter().any(Record::is_conversation),
            Contents::Plain(_) | Contents::Tokens(_) => false,
        }
    }

    /// Returns all tokens of the text: each document is tokenized on its own with the tokenizer's own BOS rule
    /// (conversations as the chat template writes them), and the results are concatenated. Token ids of an array are
    /// returned as they are, without a check against the vocabulary.
    ///
    /// # Errors
    /// When the tokenizer fails, when there is none and the text is not an array of token ids, when there are
    /// conversations and no chat template that takes them, or when a stop was requested.
    pub fn tokens<'t>(&self, tokenizer: impl Into<Option<&'t Tokenizer>>) -> Result<Vec<u32>> {
        self.first_tokens(tokenizer.into(), usize::MAX)
    }

    /// Reads the tokenizer from `files`. Returns `None` for a text of token ids, which needs none.
    ///
    /// # Errors
    /// When the text needs a tokenizer and it cannot be read.
    pub fn tokenizer(&self, files: &ModelFiles) -> Result<Option<Tokenizer>> {
        match self.contents {
            Contents::Tokens(_) => Ok(None),
            Contents::Plain(_) | Contents::Records(_) => Tokenizer::from_files(files).map(Some),
        }
    }

    fn need<'t>(&self, tokenizer: Option<&'t Tokenizer>) -> Result<&'t Tokenizer> {
        tokenizer.ok_or_else(|| {
            Error::input(format!("{} is {}, and there is no tokenizer", self.name(), self.form()))
                .hint("only token ids, in an .npy or .npz, do without")
        })
    }

    /// Returns the first `most` of [`tokens`](Self::tokens), without tokenizing documents far behind them.
    ///
    /// # Errors
    /// As [`Text::tokens`].
    pub(crate) fn first_tokens(&self, tokenizer: Option<&Tokenizer>, most: usize) -> Result<Vec<u32>> {
        let mut tokens = match &self.contents {
            Contents::Plain(text) => {
                let tokenizer = self.need(tokenizer)?;
                let documents: Vec<&str> = documents(text).collect();
                tokenize(&documents, most, |document| tokenizer.encode(document, true))?
            }
            Contents::Records(records) => {
                let tokenizer = self.need(tokenizer)?;
                let path = self.path.as_deref().unwrap_or(Path::new(""));
                tokenize(records, most, |record| record.tokens(path, tokenizer))?
            }
            Contents::Tokens(tokens) => tokens.get(..most).unwrap_or(tokens).to_vec(),
        };
        tokens.truncate(most);
        Ok(tokens)
    }

    /// Returns the token ids that every window of this text begins with, where the text begins with `tokens`: what the
    /// tokenizer or the chat template puts before a document. Token ids of an array have none.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(crate) fn beginning(&self, tokenizer: Option<&Tokenizer>, tokens: &[u32]) -> Result<Vec<u32>> {
        match (&self.contents, tokenizer) {
            (Contents::Tokens(_), _) | (_, None) => Ok(Vec::new()),
            (_, Some(tokenizer)) => tokenizer.beginning(tokens, self.has_conversations()),
        }
    }
}

/// Tokenizes `documents` with `encode`, in parallel and batch by batch, until there are at least `most` tokens.
///
/// # Errors
/// When a document fails (the first that does), or a stop was requested.
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

fn unreadable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::IsADirectory => {
            Error::file(path, "is a folder, expected a file with a text or token ids").hint(FORMS)
        }
        // Their own hints say what to do.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Error::io(path, error),
        _ => Error::io(path, error).hint(FORMS),
    }
}

/// Returns the error for a file that is not UTF-8 text: it names the kind of file, recognized by the first bytes, or
/// the first byte that is wrong.
fn not_text(path: &Path, error: &FromUtf8Error) -> Error {
    const KINDS: [(&[u8], &str, &str); 8] = [
        (b"\x1f\x8b", "gzip data", "unpack it first"),
        (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it first"),
        (b"BZh", "bzip2 data", "unpack it first"),
        (b"\xfd7zXZ", "xz data", "unpack it first"),
        (b"PAR1", "a Parquet file", "save its text as JSONL with a key `text`"),
        (b"%PDF", "a PDF", "save its text as plain UTF-8"),
        (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
        (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    ];
    let bytes = error.as_bytes();
    if let Some((_, what, hint)) = KINDS.iter().find(|(start, ..)| bytes.starts_with(start)) {
        return Error::file(path, format!("is {what}, expected UTF-8 text")).hint(*hint);
    }
    let at = error.utf8_error().valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or(0);
    let binary = if bytes.contains(&0) { "binary data, not" } else { "not" };
    Error::file(path, format!("is {binary} UTF-8 text: byte {at} is 0x{byte:02x}")).hint(FORMS)
}

/// Hint that lists the accepted forms of a text.
const FORMS: &str = "give plain UTF-8 text, JSONL with `text`, `messages` or `conversations`, or token ids in an .npy or .npz";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn tokenizer() -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        Tokenizer::from_dir(&dir).unwrap()
    }

    pub(crate) fn open(name: &str, contents: &[u8]) -> Result<Text> {
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
        assert_eq!(text.first_tokens(Some(&tokenizer), 4).unwrap(), expected[..4]);
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
        assert_eq!(text.first_tokens(Some(&tokenizer), 100).unwrap(), all[..100]);
    }

    #[test]
    fn what_cannot_be_a_text_is_refused() {
        for (contents, expected) in [
            (&b""[..], "is empty"),
            (b" \n\t\n", "is empty"),
            (b"<|endoftext|>\n<|endoftext|>\n", "is empty"),
            (b"ab\xff", "is not UTF-8 text: byte 2 is 0xff"),
            (b"a\0\xff", "is binary data, not UTF-8 text: byte 2 is 0xff"),
        ] {
            let error = open("a.txt", contents).unwrap_err();
            assert!(error.to_string().ends_with(expected), "{error}");
            assert!(error.hint_text().unwrap().contains("JSONL"));
        }
        let error = open("a.txt", b"\x1f\x8b\x08\x00").unwrap_err();
        assert!(error.to_string().ends_with("is gzip data, expected UTF-8 text"), "{error}");
        assert_eq!(error.hint_text(), Some("unpack it first"));
        let folder = tempfile::tempdir().unwrap();
        let error = Text::open(Some(folder.path())).unwrap_err();
        assert!(
            error.to_string().ends_with("is a folder, expected a file with a text or token ids"),
            "{error}"
        );
        let error = Text::open(Some(&folder.path().join("no.txt"))).unwrap_err();
        assert_eq!(error.hint_text(), Some("check the path: nothing is there"));
    }
}
