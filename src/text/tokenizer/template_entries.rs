//! The value `chat_template` of a JSON file: a string, a list of `{name, template}` or an object from names to templates.

use serde_json::Value;
use std::path::Path;

use super::message::kind;
use crate::error::{Error, Result};

/// The template that is used unless there is a reason for another.
pub(super) const DEFAULT: &str = "default";

/// Entry of the value `chat_template`.
pub(super) struct Entry {
    /// Name, or the index in brackets where that is at fault.
    pub(super) name: String,
    pub(super) source: Result<String>,
}

/// Returns names and sources in the value `chat_template` of the file `path`.
pub(super) fn entries(path: &Path, value: Option<&Value>) -> Vec<Entry> {
    let wrong = |key: &str, expected: &str, found: Option<&Value>| {
        Error::key(path, key, format!("expected {expected}, found {}", found.map_or("nothing", kind)))
    };
    let text = |key: &str, value: Option<&Value>| match value {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(wrong(key, "a string", other)),
    };
    let default = |source| vec![Entry { name: DEFAULT.to_owned(), source }];
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(source)) => default(Ok(source.clone())),
        Some(Value::Object(templates)) => {
            let entry = |(name, source): (&String, &Value)| {
                let source = text(&format!("chat_template.{name}"), Some(source));
                Entry { name: name.clone(), source }
            };
            templates.iter().map(entry).collect()
        }
        Some(Value::Array(list)) => {
            let entry = |(index, entry): (usize, &Value)| {
                let field = |name: &str| text(&format!("chat_template[{index}].{name}"), entry.get(name));
                match field("name") {
                    Ok(name) => Entry { name, source: field("template") },
                    Err(fault) => Entry { name: format!("[{index}]"), source: Err(fault) },
                }
            };
            list.iter().enumerate().map(entry).collect()
        }
        other => {
            let expected = "a string, an object or a list of {name, template}";
            default(Err(wrong("chat_template", expected, other)))
        }
    }
}
