//! A text and its form, from file to tokens.

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

/// Tokens of a sequence that goes through a model at once, at most: the masks of windows and chunks are its square, and MLX
/// counts in 32 bits.
pub const LONGEST_SEQUENCE: u32 = 32_768;

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

    /// Whether there are conversations, which the model's chat template writes out.
    pub fn has_conversations(&self) -> bool {
        match &self.contents {
            Contents::Records(records) => records.iter().any(Record::is_conversation),
            Contents::Plain(_) | Contents::Tokens(_) => false,
        }
    }

    /// All tokens: each document tokenized on its own with the tokenizer's own BOS rule (conversations: as the chat
    /// template writes them), then concatenated. Token ids of an array are not checked against the vocabulary.
    ///
    /// # Errors
    /// When the tokenizer fails, or is missing and this is no array of token ids, or there are conversations and no chat template that takes
    /// them.
    pub fn tokens<'t>(&self, tokenizer: impl Into<Option<&'t Tokenizer>>) -> Result<Vec<u32>> {
        self.first_tokens(tokenizer.into(), usize::MAX)
    }

    /// The tokenizer among `files`, where it takes one to read this text: token ids need none.
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

    /// The first `most` of [`tokens`](Self::tokens), without tokenizing what comes long after.
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

/// What the first bytes say the file is, or where it is no UTF-8.
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

/// What may be given, for hints.
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
