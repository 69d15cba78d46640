//! JSONL: one object per line, with `text` (a string) or a conversation, which the model's chat template writes out:
//! see [`conversations`](super::conversations). Lines may differ; if one has both, the conversation counts, as in
//! mlx-lm. Blank lines and other keys are ignored.

use serde_json::{Map, Value};
use std::path::Path;

use super::conversations;
use super::conversations::Conversation;
use crate::error::{Error, ErrorKind, Result};
use crate::files::json;
use crate::text::tokenizer::{Tokenizer, kind};

/// File extensions, in lower case, that mean JSONL.
const EXTENSIONS: [&str; 4] = ["jsonl", "json-lines", "jsonlines", "ndjson"];

/// Keys of which a conversation has at least one.
const CONVERSATION_KEYS: [&str; 3] = ["messages", "completion", "conversations"];

/// Document on one line of a JSONL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Line number, from 1.
    line: usize,
    document: Document,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Document {
    Text(String),
    Conversation(Conversation),
}

/// True if `path` has one of the [`EXTENSIONS`], or every non-blank line of `text` is a JSON object.
pub(crate) fn is_jsonl(path: &Path, text: &str) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    if extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) {
        return true;
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.all(|line| line.starts_with('{') && json::parse_text(line).is_ok_and(|value| value.is_object()))
}

/// True if `text` as a whole is one JSON value with records in it: an object with a key of a record, a list with at
/// least one such object, or a list that is cut off.
pub(crate) fn is_one_value(text: &str) -> bool {
    const KEYS: [&str; 4] = ["text", "messages", "completion", "conversations"];
    let is_record = |object: &Map<String, Value>| KEYS.iter().any(|key| object.contains_key(*key));
    match json::parse_text(text) {
        Ok(Value::Array(list)) => list.iter().filter_map(Value::as_object).any(is_record),
        Ok(value) => value.as_object().is_some_and(is_record),
        Err(error) => error.starts_with("EOF") && text.trim_start().starts_with('['),
    }
}

/// Reads the records of `text`, one per non-blank line. `path` is only for messages.
///
/// # Errors
/// When a line is not a JSON object or holds no document; the error names line and key.
pub(crate) fn read(path: &Path, text: &str) -> Result<Vec<Record>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| Record::parse(path, index + 1, line)).collect()
}

impl Record {
    fn parse(path: &Path, line: usize, text: &str) -> Result<Self> {
        let value =
            read_value(text).map_err(|e| Error::file(path, format!("line {line}: {e}")).hint(HINT))?;
        let Value::Object(object) = value else {
            return Err(Error::file(
                path,
                format!("line {line}: expected an object, found {}", kind(&value)),
            )
            .hint(HINT));
        };
        let wrong =
            |key: &str, message: String| Error::key(path, key, format!("line {line}: {message}")).hint(HINT);
        let conversation =
            conversations::parse(&object).map_err(|wrong_key| wrong(&wrong_key.key, wrong_key.problem))?;
        let text = object.get("text").filter(|value| !value.is_null());
        let document = match (conversation, text) {
            (Some(conversation), _) => Document::Conversation(conversation),
            (None, Some(Value::String(text))) => Document::Text(text.clone()),
            (None, Some(other)) => {
                return Err(wrong("text", format!("expected a string, found {}", kind(other))));
            }
            (None, None) => {
                let (key, message) = missing(&object);
                return Err(wrong(key, message.to_owned()));
            }
        };
        Ok(Self { line, document })
    }

    /// True if the record is a conversation, which the chat template writes out.
    pub(crate) fn is_conversation(&self) -> bool {
        matches!(self.document, Document::Conversation(_))
    }

    /// Returns the tokens of the record's document, encoded with `tokenizer`. `path` is only for messages.
    ///
    /// # Errors
    /// When the tokenizer fails, or there is no chat template that takes the conversation.
    pub(crate) fn tokens(&self, path: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let conversation = match &self.document {
            Document::Text(text) => return tokenizer.encode(text, true),
            Document::Conversation(conversation) => conversation,
        };
        let Conversation { key, messages, tools } = conversation;
        let wrong = |message: String| Error::key(path, *key, format!("line {}: {message}", self.line));
        // A template that cannot be read, or fails by itself, is no fault of the conversation.
        tokenizer.check_template(tools.as_deref())?;
        let rendered = tokenizer.render_conversation(messages, tools.as_deref()).map_err(|e| {
            if matches!(e.kind(), ErrorKind::Template { .. }) {
                return e.with_context(&format!(", for line {} of {}", self.line, path.display()));
            }
            let hint = e.hint_text().unwrap_or("the model's chat template does not take this conversation");
            wrong(e.to_string()).hint(hint)
        })?;
        let rendered = rendered.ok_or_else(|| {
            wrong("this model has no chat template".to_owned())
                .hint("give `text` instead, or put a chat_template.jinja into the model's folder")
        })?;
        // The template writes BOS itself where the model wants one.
        tokenizer.encode(&rendered, false)
    }
}

/// Reads the value of a line. Every digit counts in what a template writes out, and none beside a text.
fn read_value(line: &str) -> std::result::Result<Value, String> {
    json::parse_text_exact(line).or_else(|error| {
        let has_conversation = |value: &Value| CONVERSATION_KEYS.iter().any(|key| value.get(key).is_some());
        json::parse_text(line).ok().filter(|value| !has_conversation(value)).ok_or(error)
    })
}

/// Returns the key that a record without a document lacks, and the problem to report for that key.
fn missing(record: &Map<String, Value>) -> (&'static str, &'static str) {
    let has = |key: &str| record.get(key).is_some_and(|value| !value.is_null());
    match (has("prompt"), has("completion")) {
        (true, _) => ("completion", "missing or null beside `prompt`"),
        (_, true) => ("prompt", "missing or null beside `completion`"),
        _ => ("text", "missing or null, and so are `messages` and `conversations`"),
    }
}

const HINT: &str = "each line is an object with `text` (a string), `messages` (a list of {role, content}), `conversations` \
    (a list of {from, value}), or `prompt` and `completion`";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::text::tests::{open, tokenizer};
    use crate::text::tokenizer::{Message, Tokenizer};

    const CHAT: &str =
        r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}"#;

    #[test]
    fn records_are_read_as_python_reads_them() {
        let lines = b"{\"text\": \"one\", \"score\": NaN}\n{\"text\": \"two\", \"id\": 1e999}\n";
        for name in ["a.jsonl", "a.txt"] {
            let text = open(name, lines).unwrap();
            assert_eq!(text.form(), "JSONL");
            assert!(text.tokens(&tokenizer()).is_ok());
        }
        let long = "9".repeat(40);
        assert!(open("a.jsonl", format!("{{\"text\": \"one\", \"id\": {long}}}").as_bytes()).is_ok());
        let error = open("a.jsonl", CHAT.replace("\"Hi\"", &long).as_bytes()).unwrap_err().to_string();
        let expected = "line 1: key `messages.0.content`: the integer 9999";
        assert!(
            error.contains(expected) && error.ends_with("does not fit in a signed 128-bit integer"),
            "{error}"
        );
        let error = open("a.json", b"[{\"text\": \"one\", \"score\": NaN}]").unwrap_err();
        assert!(error.to_string().contains("one JSON value"), "{error}");
    }

    #[test]
    fn lines_may_be_texts_and_conversations() {
        let tokenizer = tokenizer();
        let lines = format!("{{\"text\": \"one\\ntwo\", \"id\": 3, \"messages\": null}}\n\n{CHAT}\n");
        // By its extension, and by its lines.
        for name in ["a.jsonl", "a.JSON-LINES", "a.txt"] {
            let text = open(name, lines.as_bytes()).unwrap();
            assert_eq!(text.form(), "JSONL");
            let mut expected = tokenizer.encode("one\ntwo", true).unwrap();
            let chat = [Message::new("user", "Hi"), Message::new("assistant", "Yes")];
            let rendered = tokenizer.apply_chat_template(&chat, false).unwrap().unwrap();
            assert!(rendered.starts_with("<|begin_of_text|>"));
            expected.extend(tokenizer.encode(&rendered, true).unwrap());
            let tokens = text.tokens(&tokenizer).unwrap();
            assert_eq!(tokens, expected);
            assert_eq!(tokens.iter().filter(|&&id| id == 0).count(), 2, "BOS once a document");
        }
    }

    #[test]
    fn a_line_that_is_no_object_makes_it_plain_text() {
        let text = open("a.txt", b"{\"text\": \"one\"}\nand so on\n").unwrap();
        assert_eq!(text.form(), "plain text");
    }

    #[test]
    fn one_list_of_records_is_refused() {
        for text in [
            "[{\"text\": \"one\"},\n {\"text\": \"two\"}]\n",
            "{\n  \"messages\": []\n}",
            "[{\"text\": \"cut o",
        ] {
            let error = open("a.json", text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("one JSON value"), "{error}");
            assert!(error.hint_text().unwrap().contains("jq"), "{error:?}");
        }
        for text in ["[1, 2]\n", "[{\"name\": \"a\"}]\nand so on\n", "[link]: target\n"] {
            assert_eq!(open("a.json", text.as_bytes()).unwrap().form(), "plain text");
        }
    }

    #[test]
    fn errors_name_line_and_key() {
        for (line, expected) in [
            ("{\"text\": ", "line 3: not valid JSON"),
            ("[1]", "line 3: expected an object, found a list"),
            ("{}", "key `text`: line 3: missing or null, and so are `messages` and `conversations`"),
            ("{\"prompt\": \"x\"}", "key `completion`: line 3: missing or null beside `prompt`"),
            (
                "{\"prompt\": null, \"completion\": \"x\"}",
                "key `prompt`: line 3: missing or null beside `completion`",
            ),
            ("{\"conversations\": [{\"from\": \"me\"}]}", "key `conversations[0].from`: line 3: expected"),
            ("{\"text\": 5}", "key `text`: line 3: expected a string, found a number"),
            (
                "{\"messages\": []}",
                "key `messages`: line 3: expected a list of messages, found an empty list",
            ),
            (
                "{\"messages\": [{\"role\": \"user\", \"content\": [1]}]}",
                "key `messages[0].content[0]`: line 3: expected {type: text, text}, found a number",
            ),
            (
                "{\"messages\": [{\"content\": \"x\"}]}",
                "key `messages[0].role`: line 3: expected a string, found nothing",
            ),
        ] {
            let error = open("a.jsonl", format!("{{\"text\": \"x\"}}\n\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.to_string().contains("a.jsonl") && error.to_string().contains(expected), "{error}");
            let hint = error.hint_text().unwrap();
            assert!(hint.contains("`messages`") && hint.contains("`conversations`"), "{hint}");
        }
    }

    #[test]
    fn messages_need_a_template_that_takes_them() {
        let folder = tempfile::tempdir().unwrap();
        let bundled =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        std::fs::copy(bundled.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        let bare = Tokenizer::from_dir(folder.path()).unwrap();
        let error = open("a.jsonl", format!("{{\"text\": \"x\"}}\n{CHAT}").as_bytes())
            .unwrap()
            .tokens(&bare)
            .unwrap_err();
        assert!(
            error.to_string().contains("key `messages`: line 2: this model has no chat template"),
            "{error}"
        );
        let odd = r#"{"messages": [{"role": "user", "content": "x"}, {"role": "oracle", "content": "y"}]}"#;
        let error = open("a.jsonl", odd.as_bytes()).unwrap().tokens(&tokenizer()).unwrap_err();
        assert!(
            error.to_string().contains("key `messages`: line 1: ") && error.to_string().contains("roles"),
            "{error}"
        );
    }
}
