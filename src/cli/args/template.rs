//! Arguments of chat templates.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use crate::files::json;

/// Heading of these flags, set on each: after a group clap would continue with the group's heading.
const HEADING: &str = "Chat template";

/// Variables that `--chat-template-config` must not set, as other flags and the command itself do.
const NO_VARIABLES: [&str; 7] = [
    "messages",
    "conversation",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
];

/// Chat template, its variables, and the beginning of answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Template {
    /// Use this chat template: a Jinja file, or the name of one of the model's
    #[arg(long, value_name = "FILE|NAME", help_heading = HEADING)]
    pub chat_template: Option<PathBuf>,
    /// Variables for the chat template, as a JSON object, such as '{"enable_thinking": false}'
    #[arg(
        long, alias = "chat-template-args", value_name = "JSON", value_parser = parse_variables,
        help_heading = HEADING
    )]
    pub chat_template_config: Option<Map<String, Value>>,
    /// Begin each answer with this text and let the model continue it. In a text, begin the last answer of each conversation
    #[arg(
        long, value_name = "TEXT", allow_hyphen_values = true, value_parser = parse_prefill, help_heading = HEADING
    )]
    pub prefill_response: Option<String>,
}

impl Template {
    /// Returns the flags that are set, for messages.
    pub fn flags(&self) -> Vec<&'static str> {
        let flags = [
            ("--chat-template", self.chat_template.is_some()),
            ("--prefill-response", self.prefill_response.is_some()),
            // mlx-lm's default is an object without variables, which scripts may repeat.
            ("--chat-template-config", self.chat_template_config.as_ref().is_some_and(|map| !map.is_empty())),
        ];
        flags.into_iter().filter_map(|(flag, is_set)| is_set.then_some(flag)).collect()
    }
}

/// Template and tools.
#[derive(Debug, Args)]
pub struct Asking {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub template: Template,
    /// Tools to offer to the model: a JSON file with a list of definitions, for the chat template
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub tools: Option<PathBuf>,
}

/// Parses the beginning of answers. An empty one would still change what some templates write before the answer.
fn parse_prefill(text: &str) -> Result<String, String> {
    match text {
        "" => Err("an empty text begins no answer: leave the flag out".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Parses an object of variables, without those that flags and the command set.
fn parse_variables(text: &str) -> Result<Map<String, Value>, String> {
    let value = json::parse_text_exact(text)
        .map_err(|error| format!("{error}; expected an object such as {{\"name\": true}}"))?;
    let Value::Object(object) = value else {
        return Err("expected a JSON object such as {\"name\": true}".to_owned());
    };
    let Some(name) = NO_VARIABLES.into_iter().find(|name| object.contains_key(*name)) else {
        return Ok(object);
    };
    Err(match name {
        "tools" => "`tools` is no variable that can be set here: --tools FILE gives them".to_owned(),
        "chat_template" => {
            "`chat_template` is no variable that can be set here: --chat-template chooses one".to_owned()
        }
        name => format!("`{name}` is no variable that can be set here: it is what the command asks for"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_variables_is_no_flag() {
        let set = |text: &str| Template {
            chat_template_config: Some(parse_variables(text).unwrap()),
            ..Template::default()
        };
        assert!(set("{}").flags().is_empty());
        assert_eq!(set(r#"{"a": 1}"#).flags(), ["--chat-template-config"]);
        assert!(parse_prefill("").is_err() && parse_prefill(" ").is_ok());
    }

    #[test]
    fn variables_are_objects() {
        let object = parse_variables(r#"{"enable_thinking": false, "b": [1, 1.0], "a": null}"#).unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["enable_thinking", "b", "a"]);
        for (wrong, expected) in [
            ("", "not valid JSON"),
            ("{'a': 1}", "not valid JSON"),
            ("[]", "expected a JSON object"),
            ("false", "expected a JSON object"),
            (r#"{"a": 1, "messages": []}"#, "`messages` is no variable"),
            (r#"{"tools": []}"#, "--tools"),
            (r#"{"a": 170141183460469231731687303715884105728}"#, "does not fit in a signed 128-bit integer"),
            (r#"{"chat_template": "tool_use"}"#, "--chat-template chooses"),
        ] {
            let error = parse_variables(wrong).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
