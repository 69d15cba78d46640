//! Conversations in records of JSONL, in the forms that people train on:
//! - `prompt` and `completion`: a question and its answer, or lists of messages;
//! - `messages`: a list of objects with `role` and `content`, and any other keys that the chat template reads;
//! - `conversations`: ShareGPT's list of `{from, value}`, or of messages, and `system`; only without `text`.
//!
//! The first of these forms that a record has counts, as in mlx-lm (which does not read ShareGPT's). The record's
//! `tools` reach the template, as in mlx-lm. Arguments of tool calls that are strings of JSON, as in OpenAI's format,
//! become objects, as in mlx-lm's server: templates write arguments as JSON themselves.

use serde_json::{Map, Value};

use crate::files::json;
use crate::text::tokenizer::{Message, NoMessage, kind};

/// Conversation for a chat template to write out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// Key of the record that holds the conversation.
    pub(crate) key: &'static str,
    pub(crate) messages: Vec<Message>,
    /// Definitions of the tools that the assistant could call.
    pub(crate) tools: Option<Vec<Value>>,
}

/// Returns the conversation of a record, if it has one. A key whose value is null counts as missing.
///
/// # Errors
/// When the value of a key is not as expected; the error names the key.
pub(crate) fn parse(record: &Map<String, Value>) -> Result<Option<Conversation>, NoMessage> {
    let given = |key: &str| record.get(key).filter(|value| !value.is_null());
    let (key, messages) = match (given("prompt"), given("completion"), given("messages")) {
        (Some(prompt), Some(completion), _) => {
            let mut messages = side(prompt, "prompt", "user")?;
            messages.extend(side(completion, "completion", "assistant")?);
            ("completion", messages)
        }
        (_, _, Some(list)) => ("messages", messages(list, "messages")?),
        _ => match given("conversations").filter(|_| given("text").is_none()) {
            Some(list) => ("conversations", share_gpt(list, given("system"))?),
            None => return Ok(None),
        },
    };
    Ok(Some(Conversation { key, messages, tools: given("tools").map(tools).transpose()? }))
}

/// Reads a prompt or completion, which stands under `key`: a list of messages, or the content of one message of `role`.
fn side(value: &Value, key: &str, role: &str) -> Result<Vec<Message>, NoMessage> {
    let are_messages = |list: &Vec<Value>| list.iter().any(|message| message.get("role").is_some());
    if value.as_array().is_some_and(are_messages) {
        return messages(value, key);
    }
    let object = [("role".to_owned(), role.into()), ("content".to_owned(), value.clone())];
    let message = Message::from_object(object.into_iter().collect());
    let within = |error: NoMessage| match error.key.strip_prefix("content") {
        Some(rest) => NoMessage { key: format!("{key}{rest}"), ..error },
        None => error,
    };
    Ok(vec![message.map_err(within)?])
}

fn messages(value: &Value, key: &str) -> Result<Vec<Message>, NoMessage> {
    let messages = list(value, key)?.iter().enumerate();
    messages.map(|(index, value)| message(object(value, key, index)?, key, index)).collect()
}

/// Reads the message `object`, which stands at `index` of the list under `key`.
fn message(mut object: Map<String, Value>, key: &str, index: usize) -> Result<Message, NoMessage> {
    read_arguments(&mut object);
    let within = |error: NoMessage| NoMessage { key: format!("{key}[{index}].{}", error.key), ..error };
    Message::from_object(object).map_err(within)
}

fn share_gpt(value: &Value, system: Option<&Value>) -> Result<Vec<Message>, NoMessage> {
    let key = "conversations";
    let mut messages = match system {
        None => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::String(text)) => vec![Message::new("system", text)],
        Some(other) => return Err(wrong("system".to_owned(), "a string", Some(other))),
    };
    for (index, value) in list(value, key)?.iter().enumerate() {
        let turn = object(value, key, index)?;
        if turn.contains_key("role") {
            messages.push(message(turn, key, index)?);
            continue;
        }
        let text = |name: &str| {
            let text = turn.get(name).and_then(Value::as_str);
            text.ok_or_else(|| wrong(format!("{key}[{index}].{name}"), "a string", turn.get(name)))
        };
        messages.push(Message::new(role(text("from")?, &format!("{key}[{index}].from"))?, text("value")?));
    }
    Ok(messages)
}

/// Returns the role that corresponds to `from` in ShareGPT's form. `key` is for the error if there is none.
fn role(from: &str, key: &str) -> Result<&'static str, NoMessage> {
    Ok(match from {
        "system" => "system",
        "human" | "user" => "user",
        "gpt" | "chatgpt" | "bard" | "bing" | "model" | "assistant" | "function_call" => "assistant",
        "tool" | "observation" | "function_response" => "tool",
        other => {
            let problem = format!("expected system, human, gpt or tool, found `{other}`");
            return Err(NoMessage { key: key.to_owned(), problem });
        }
    })
}

/// Reads tool definitions: a list of objects, or that list as a string of JSON, as tables have it.
fn tools(value: &Value) -> Result<Vec<Value>, NoMessage> {
    let written = value.as_str().and_then(|text| json::parse_text_exact(text).ok());
    match written.as_ref().unwrap_or(value) {
        Value::Array(list) if list.iter().all(Value::is_object) => Ok(list.clone()),
        _ => Err(wrong("tools".to_owned(), "a list of objects", Some(value))),
    }
}

/// Replaces the arguments of a message's tool calls with objects, if they are objects written as a string of JSON.
fn read_arguments(message: &mut Map<String, Value>) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments"))
        else {
            continue;
        };
        let read = arguments.as_str().and_then(|text| json::parse_text_exact(text).ok());
        if let Some(object) = read.filter(Value::is_object) {
            *arguments = object;
        }
    }
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v Vec<Value>, NoMessage> {
    let list = value.as_array().filter(|list| !list.is_empty());
    list.ok_or_else(|| wrong(key.to_owned(), "a list of messages", Some(value)))
}

fn object(value: &Value, key: &str, index: usize) -> Result<Map<String, Value>, NoMessage> {
    let object = value.as_object().cloned();
    object.ok_or_else(|| wrong(format!("{key}[{index}]"), "an object", Some(value)))
}

fn wrong(key: String, expected: &str, found: Option<&Value>) -> NoMessage {
    let problem = format!("expected {expected}, found {}", found.map_or("nothing", kind));
    NoMessage { key, problem }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(record: &Value) -> Result<Option<Conversation>, NoMessage> {
        parse(record.as_object().unwrap())
    }

    fn said(record: &Value) -> Vec<Message> {
        read(record).unwrap().unwrap().messages
    }

    fn turns() -> [Message; 2] {
        [Message::new("user", "Hi"), Message::new("assistant", "Ho")]
    }

    #[test]
    fn forms_of_conversations() {
        let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]);
        let turns_of_share_gpt = json!([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]);
        for record in [
            json!({"messages": messages, "text": "x", "conversations": turns_of_share_gpt}),
            json!({"prompt": "Hi", "completion": "Ho", "messages": [{"role": "user", "content": "x"}]}),
            json!({"prompt": [messages[0]], "completion": [messages[1]]}),
            json!({"prompt": null, "completion": "x", "messages": messages}),
            json!({"conversations": turns_of_share_gpt}),
            json!({"conversations": messages, "system": ""}),
        ] {
            assert_eq!(said(&record), turns(), "{record}");
        }
        let with_system = json!({"conversations": turns_of_share_gpt, "system": "Be brief."});
        assert_eq!(said(&with_system)[0], Message::new("system", "Be brief."));
        for none in [json!({"prompt": "Hi"}), json!({"text": "x", "conversations": turns_of_share_gpt})] {
            assert_eq!(read(&none).unwrap(), None, "{none}");
        }
    }

    #[test]
    fn tools_come_with_the_conversation() {
        let tool = json!({"type": "function", "function": {"name": "f"}});
        let tools = |value: Value| {
            read(&json!({"prompt": "a", "completion": "b", "tools": value})).map(|found| found.unwrap().tools)
        };
        assert_eq!(tools(json!([tool])).unwrap(), Some(vec![tool.clone()]));
        assert_eq!(tools(json!(json!([tool]).to_string())).unwrap(), Some(vec![tool]));
        assert_eq!(tools(Value::Null).unwrap(), None);
        for wrong in [json!("f"), json!(["f"]), json!({})] {
            assert_eq!(tools(wrong).unwrap_err().key, "tools");
        }
    }

    #[test]
    fn arguments_become_objects() {
        let call = |arguments: &Value| json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]});
        let said = |arguments: &Value| said(&json!({"messages": [call(arguments)]})).remove(0);
        let object = json!({"b": 1, "a": 2.0});
        assert_eq!(said(&json!(object.to_string())), said(&object));
        // What is no object is left as it is.
        assert_ne!(said(&json!("[1]")), said(&json!([1])));
    }

    #[test]
    fn wrong_keys_are_named() {
        for (record, key) in [
            (json!({"messages": {}}), "messages"),
            (json!({"messages": ["x"]}), "messages[0]"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
                "messages[0].content[0].type",
            ),
            (json!({"prompt": 1, "completion": "x"}), "prompt"),
            (json!({"prompt": "x", "completion": ["y"]}), "completion[0]"),
            (json!({"prompt": "x", "completion": [{"role": "assistant"}]}), "completion[0].content"),
            (json!({"conversations": [{"from": "human", "value": "x"}], "system": ["x"]}), "system"),
            (json!({"conversations": [{"from": "human"}]}), "conversations[0].value"),
            (json!({"conversations": [{"value": "x"}]}), "conversations[0].from"),
            (json!({"conversations": [{"from": "x", "value": "x"}]}), "conversations[0].from"),
        ] {
            assert_eq!(read(&record).unwrap_err().key, key, "{record}");
        }
    }
}
