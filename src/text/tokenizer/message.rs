//! One turn of a conversation, as chat templates see it: a JSON object with a role.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Keys that a message's reasoning goes under; the first is the one that chat templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Keys beside which a message need not have `content`.
const IN_PLACE_OF_CONTENT: [&str; 2] = ["tool_calls", "function_call"];

/// One turn of a conversation. Beside `role` and `content` it may have whatever the model's template knows:
/// `tool_calls`, `tool_call_id`, `name`, `reasoning_content`, ...
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

/// A key of an object that keeps it from being a message, and what is wrong with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMessage {
    /// The key, with what leads to it: `content[1].type`.
    pub key: String,
    /// The problem: the value that was expected, and the one that was found.
    pub problem: String,
}

impl Message {
    /// Creates a message of `role` that says `content`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        let pairs = [("role", json!(role)), ("content", Value::String(content.into()))];
        Self(pairs.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    }

    /// Creates a message with all keys of `object`. `role` is a string; `content` is a string, a list of parts
    /// (`{"type": "text", "text": "..."}`) or null, and may be missing beside tool calls or reasoning. What a tool
    /// returns may be an object too.
    ///
    /// # Errors
    /// Fails if a key is missing or wrong; the error names the key.
    pub fn from_object(object: Map<String, Value>) -> Result<Self, NoMessage> {
        let role = match object.get("role") {
            Some(Value::String(role)) => role.as_str(),
            other => return Err(NoMessage::expected("role", "a string", other)),
        };
        match object.get("content") {
            Some(Value::String(_) | Value::Null) => {}
            Some(Value::Object(_)) if role == "tool" => {}
            Some(Value::Array(parts)) if !parts.is_empty() => check_parts(parts)?,
            None if IN_PLACE_OF_CONTENT.iter().chain(&REASONING).any(|key| object.contains_key(*key)) => {}
            other => return Err(NoMessage::expected("content", "a string or a list of parts", other)),
        }
        Ok(Self(object))
    }

    /// Returns the role of the speaker: `system`, `user`, `assistant`, or another that the model's template knows.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns all of the message.
    pub(crate) const fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// True if the content is a list of parts.
    pub(crate) fn has_parts(&self) -> bool {
        self.0.get("content").is_some_and(Value::is_array)
    }

    /// Puts `text` before the content. A message without content gets it as its content.
    pub(crate) fn begin_with(&mut self, text: &str) {
        let content = match self.0.get_mut("content") {
            Some(Value::Array(parts)) => parts.first_mut().and_then(|part| part.get_mut("text")),
            content => content,
        };
        if let Some(Value::String(content)) = content {
            content.insert_str(0, text);
        } else {
            self.0.insert("content".to_owned(), Value::String(text.to_owned()));
        }
    }

    /// The texts of the content's parts as one string, as mlx-lm's server joins them.
    pub(crate) fn with_joined_parts(mut self) -> Self {
        if let Some(Value::Array(parts)) = self.0.get("content") {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
            let joined = texts.concat();
            self.0.insert("content".to_owned(), Value::String(joined));
        }
        self
    }

    /// The object as transformers hands it to a template: keys whose value is null are left out, and reasoning is there
    /// as `reasoning_content` and as `thinking`.
    pub(crate) fn for_template(&self) -> Self {
        let mut object = Map::new();
        let reasoning = REASONING.iter().find_map(|key| self.0.get(*key).filter(|value| !value.is_null()));
        if let Some(reasoning) = reasoning {
            object.insert("thinking".to_owned(), reasoning.clone());
        }
        let said = self.0.iter().filter(|(_, value)| !value.is_null());
        object.extend(said.map(|(key, value)| (key.clone(), value.clone())));
        if let Some(reasoning) = reasoning {
            object.insert("reasoning_content".to_owned(), reasoning.clone());
        }
        Self(object)
    }

    /// Returns the text that a continuation resumes: the content, or its last part.
    pub(crate) fn last_text(&mut self) -> Option<&mut String> {
        match self.0.get_mut("content")? {
            Value::String(text) => Some(text),
            Value::Array(parts) => {
                let text = parts.iter_mut().rev().find_map(|part| part.get_mut("text"))?;
                if let Value::String(text) = text { Some(text) } else { None }
            }
            _ => None,
        }
    }
}

impl NoMessage {
    fn expected(key: impl Into<String>, expected: &str, found: Option<&Value>) -> Self {
        let found = found.map_or("nothing", kind);
        Self { key: key.into(), problem: format!("expected {expected}, found {found}") }
    }
}

/// Checks that all parts are texts, because no model here takes images or sound.
fn check_parts(parts: &[Value]) -> Result<(), NoMessage> {
    for (index, part) in parts.iter().enumerate() {
        let key = |name: &str| format!("content[{index}]{name}");
        match part.get("type") {
            Some(Value::String(kind)) if kind == "text" => {}
            Some(Value::String(kind)) => {
                let problem = format!("expected `text`, found `{kind}`: only text can be read");
                return Err(NoMessage { key: key(".type"), problem });
            }
            _ => return Err(NoMessage::expected(key(""), "{type: text, text}", Some(part))),
        }
        if !part.get("text").is_some_and(Value::is_string) {
            return Err(NoMessage::expected(key(".text"), "a string", part.get("text")));
        }
    }
    Ok(())
}

/// Returns a phrase for the type of `value`, such as "a string" or "an empty list". The value itself, which may be
/// long, is left out.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(list) if list.is_empty() => "an empty list",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(value: &Value) -> Result<Message, NoMessage> {
        Message::from_object(value.as_object().unwrap().clone())
    }

    #[test]
    fn messages_keep_every_key() {
        let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2.0}}}]);
        for value in [
            json!({"role": "user", "content": "Hi"}),
            json!({"role": "assistant", "content": null, "tool_calls": call}),
            json!({"role": "assistant", "tool_calls": call}),
            json!({"role": "assistant", "reasoning": "so"}),
            json!({"role": "tool", "tool_call_id": "1", "name": "f", "content": {"celsius": 3}}),
            json!({"content": [{"type": "text", "text": "a"}], "role": "user", "train": false}),
        ] {
            assert_eq!(serde_json::to_string(&message(&value).unwrap()).unwrap(), value.to_string());
        }
    }

    #[test]
    fn wrong_keys_are_named() {
        for (value, key, problem) in [
            (json!({"content": "x"}), "role", "found nothing"),
            (json!({"role": 1, "content": "x"}), "role", "found a number"),
            (json!({"role": "user"}), "content", "found nothing"),
            (json!({"role": "user", "content": []}), "content", "found an empty list"),
            (json!({"role": "user", "content": {}}), "content", "found an object"),
            (json!({"role": "user", "content": ["x"]}), "content[0]", "found a string"),
            (json!({"role": "user", "content": [{"type": "text"}]}), "content[0].text", "found nothing"),
            (
                json!({"role": "user", "content": [{"type": "text", "text": ""}, {"type": "image_url"}]}),
                "content[1].type",
                "found `image_url`",
            ),
        ] {
            let error = message(&value).unwrap_err();
            assert_eq!(error.key, key);
            assert!(error.problem.contains(problem), "{error:?}");
        }
    }

    #[test]
    fn templates_see_what_transformers_gives_them() {
        let value = json!({"role": "assistant", "content": null, "reasoning": "so", "tool_calls": null});
        let seen = message(&value).unwrap().for_template();
        let expected = r#"{"thinking":"so","role":"assistant","reasoning":"so","reasoning_content":"so"}"#;
        assert_eq!(serde_json::to_string(&seen).unwrap(), expected);
    }

    #[test]
    fn parts_are_joined() {
        let parts = json!([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]);
        let message = message(&json!({"role": "user", "content": parts})).unwrap();
        assert!(message.has_parts());
        assert_eq!(message.with_joined_parts(), Message::new("user", "a b"));
    }
}
