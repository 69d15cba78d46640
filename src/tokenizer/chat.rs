//! Chat templates: Jinja, rendered the way transformers renders them.

use std::path::{Path, PathBuf};

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::jinja;
use super::special::SpecialTokens;
use crate::error::{Error, Result};
use crate::model_files::ModelFiles;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, and whatever else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A template and the file that it came from.
pub(super) struct ChatTemplate {
    path: PathBuf,
    source: String,
}

impl ChatTemplate {
    /// `chat_template.jinja` if it is there, else `chat_template` of `config` (`tokenizer_config.json`): a
    /// string, or a list of named templates, of which `default` is taken (the first if none is called so).
    pub(super) fn read(
        files: &ModelFiles,
        config_path: &Path,
        config: &Map<String, serde_json::Value>,
    ) -> Result<Option<Self>> {
        let name = "chat_template.jinja";
        if files.pack().is_none() && files.path_of(name).is_dir() {
            return Err(Error::file(
                files.path_of(name),
                "is a folder, expected a file with the chat template",
            )
            .hint("move it elsewhere, or put the template in its place"));
        }
        if files.has(name) {
            return Ok(Some(Self { path: files.path_of(name), source: files.read_text(name)? }));
        }
        let found = |source: &str| Ok(Some(Self { path: config_path.to_owned(), source: source.to_owned() }));
        let wrong =
            || Error::key(config_path, "chat_template", "expected a string or a list of {name, template}");
        match config.get("chat_template") {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(source)) => found(source),
            Some(serde_json::Value::Array(list)) => {
                let named = |t: &&serde_json::Value| t.get("name").is_some_and(|name| name == "default");
                let Some(entry) = list.iter().find(named).or(list.first()) else { return Ok(None) };
                found(entry.get("template").and_then(|t| t.as_str()).ok_or_else(wrong)?)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Renders the template over `messages`, with the special tokens as variables (`bos_token`, ...).
    pub(super) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        special: &SpecialTokens,
    ) -> Result<String> {
        if messages.is_empty() {
            return Err(Error::input("a chat template needs at least one message, got none"));
        }
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
            .collect();
        let tokens = Value::from_pairs(special.named());
        let variables = context! {
            messages, add_generation_prompt, tools => Value::from(()), documents => Value::from(()), ..tokens
        };
        let rendered = jinja::render(&self.path, &self.source, variables)?;
        if rendered.trim().is_empty() {
            return Err(Error::file(&self.path, "chat template: writes nothing")
                .hint("take the file from the model's repository again"));
        }
        Ok(rendered)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    //! The expected prompts are those of transformers 5.23.
    use super::super::Tokenizer;
    use super::super::testing::{fixture, folder, sentencepiece};
    use super::Message;
    use crate::error::Result;

    const LLAMA3: &str = r#"{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;

    const CHATML: &str = r"{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = 'You are a helpful assistant.' %}{% endif %}
{% if system_message %}
<|im_start|>system
{{ system_message }}<|im_end|>
{% endif %}
{% for message in loop_messages %}
    {% if message.content.startswith('skip') %}{% continue %}{% endif %}
    {% generation %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
    {% endgeneration %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
";

    const MISTRAL: &str = r"{{ bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}";

    fn messages(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
    }

    fn apply(template: &str, turns: &[(&str, &str)], add_generation_prompt: bool) -> Result<String> {
        let config = serde_json::json!(
            {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template});
        let dir = folder(&[
            ("tokenizer.json", &sentencepiece(true).to_string()),
            ("tokenizer_config.json", &config.to_string()),
        ]);
        let tokenizer = Tokenizer::from_dir(dir.path())?;
        Ok(tokenizer.apply_chat_template(&messages(turns), add_generation_prompt)?.unwrap())
    }

    fn fails(template: &str) -> String {
        apply(template, &[("user", "Hi")], true).unwrap_err().to_string()
    }

    #[test]
    fn fixture_template() {
        let tokenizer = fixture();
        assert!(tokenizer.has_chat_template());
        let render = |turns: &[(&str, &str)], prompt| {
            tokenizer.apply_chat_template(&messages(turns), prompt).map(Option::unwrap)
        };
        let user = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>";
        let system = "<|start_header_id|>system<|end_header_id|>\n\n\
            Please reason step-by-step and put your final answer within \\boxed{}.<|eot_id|>";
        let assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n";
        let prompt = render(&[("user", " Hi ")], true).unwrap();
        assert_eq!(prompt, format!("<|begin_of_text|>{system}{user}{assistant}"));
        // The template wrote BOS; the tokenizer does not add another.
        assert!(tokenizer.encode(&prompt, true).unwrap().starts_with(&[0, 2]));
        // An explicitly empty system message removes the default one.
        let prompt = render(&[("system", ""), ("user", "Hi")], false).unwrap();
        assert_eq!(prompt, format!("<|begin_of_text|>{user}"));
        let error = render(&[("user", "Hi"), ("tool", "x")], true).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "chat_template.jinja: chat template line 13: roles must be user or assistant, got tool"
            ),
            "{error}"
        );
        assert!(tokenizer.apply_chat_template(&[], true).is_err());
    }

    #[test]
    fn llama3() {
        let system = "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n";
        let user = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>";
        let assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n";
        let turns = [("system", " Be <b>brief</b>. "), ("user", "Hi  ")];
        let prompt = apply(LLAMA3, &turns, true).unwrap();
        assert_eq!(prompt, format!("{system}Be <b>brief</b>.{user}{assistant}"));
        assert_eq!(apply(LLAMA3, &[("user", "Hi")], false).unwrap(), format!("{system}{user}"));
    }

    #[test]
    fn chatml() {
        let system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
        let user = "<|im_start|>user\nHi  <|im_end|>\n";
        let prompt = apply(CHATML, &[("user", "Hi  "), ("user", "skip me")], true).unwrap();
        assert_eq!(prompt, format!("{system}{user}<|im_start|>assistant\n"));
        assert_eq!(apply(CHATML, &[("system", ""), ("user", "Hi  ")], false).unwrap(), user);
    }

    #[test]
    fn mistral() {
        let turns = [("user", "a"), ("assistant", "b"), ("user", "c")];
        assert_eq!(apply(MISTRAL, &turns, true).unwrap(), "<s>[INST] a [/INST]b</s>[INST] c [/INST]");
        let error = apply(MISTRAL, &[("user", "a"), ("user", "b")], true).unwrap_err().to_string();
        assert!(
            error.ends_with("tokenizer_config.json: chat template line 4: Conversation roles must alternate"),
            "{error}"
        );
    }

    #[test]
    fn prints_like_python() {
        let template = "{{ true }} {{ none }} {{ nothing }} {{ 3 / 2 }} {{ tools is none }} \
            {{ messages[0].nothing }} {{ 'a,b'.split(',')[-1].upper() }} {{ {'a': 1}.items() | list }}\n";
        let expected = "True None  1.5 True  B [('a', 1)]";
        assert_eq!(apply(template, &[("user", "Hi")], true).unwrap(), expected);
    }

    #[test]
    fn failures_name_the_file_and_the_line() {
        let message = fails("\n{{ messages[0].content.nonsense() }}");
        assert!(message.contains("tokenizer_config.json: chat template line 2: unknown method"), "{message}");
        let message = fails("a\n\n{{ messages[0].content | nonsense }}");
        assert!(message.contains("chat template line 3: unknown filter: filter nonsense"), "{message}");
        let message = fails("a\n{% if messages is nonsense %}{% endif %}");
        assert!(message.contains("chat template line 2: unknown test"), "{message}");
        let message = fails("a\n\n{% if %}");
        assert!(message.contains("chat template line 3: syntax error"), "{message}");
        let message =
            fails("\n{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}");
        assert!(message.contains("chat template line 2: does not come to an end"), "{message}");
        let message = fails("{% for i in range(9999) %}{{ 'long' * 99999 }}{% endfor %}");
        assert!(message.contains("chat template: writes more than"), "{message}");
        let message = fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
        assert!(message.contains("recursion"), "{message}");
    }

    #[test]
    fn where_templates_come_from() {
        let json = sentencepiece(true).to_string();
        let first = |files: &[(&str, &str)]| {
            let mut all = vec![("tokenizer.json", json.as_str())];
            all.extend(files);
            let tokenizer = Tokenizer::from_dir(folder(&all).path()).unwrap();
            tokenizer.apply_chat_template(&messages(&[("user", "Hi")]), true).unwrap()
        };
        let list =
            r#"{"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]}"#;
        let string = r#"{"chat_template": "S"}"#;
        assert_eq!(first(&[]), None);
        assert_eq!(first(&[("tokenizer_config.json", r#"{"chat_template": null}"#)]), None);
        assert_eq!(first(&[("tokenizer_config.json", string)]).as_deref(), Some("S"));
        assert_eq!(first(&[("tokenizer_config.json", list)]).as_deref(), Some("D"));
        let both = [("tokenizer_config.json", string), ("chat_template.jinja", "J\n")];
        assert_eq!(first(&both).as_deref(), Some("J"));
    }
}
