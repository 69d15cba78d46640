//! Chat templates: Jinja, rendered the way transformers renders them.

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::Map;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::json_value::{Python, PythonObject};
use super::message::Message;
use super::special::SpecialTokens;
use crate::error::{Error, ErrorKind, Result};
use crate::text::tokenizer::jinja::render::{check_syntax, render};

/// Roles whose messages are tried with parts, once per template.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Text that transformers puts behind a message that is to be continued, to find the place in what the template wrote.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The place at which a rendered conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// After the last message.
    Closed,
    /// After the generation prompt, which introduces an answer.
    GenerationPrompt,
    /// In the last message, which the answer continues.
    Continued,
}

/// Messages, tools and variables that a template renders, and the place at which the text ends.
pub(crate) struct Conversation<'a> {
    pub(crate) messages: &'a [Message],
    pub(crate) tools: Option<&'a [serde_json::Value]>,
    /// Further variables, which override those of special tokens.
    pub(crate) variables: &'a Map<String, serde_json::Value>,
    pub(crate) end: End,
}

/// Origin of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file of the model.
    Model,
    /// A file that the user has put in the place of the model's.
    User,
}

/// A template and the file that it came from.
pub(crate) struct ChatTemplate {
    path: PathBuf,
    origin: Origin,
    source: String,
    /// True per role of `ROLES` if its messages may have parts; set by the first trial rendering.
    takes_parts: OnceLock<[bool; ROLES.len()]>,
}

impl ChatTemplate {
    pub(crate) fn new(path: PathBuf, source: String, origin: Origin) -> Self {
        Self { path, origin, source, takes_parts: OnceLock::new() }
    }

    /// Returns the path of the file that the template came from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True if the template's text contains `name`; a template without it does not read that variable.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// Fails if the template does not compile.
    pub(crate) fn check_syntax(&self) -> Result<()> {
        check_syntax(&self.path, &self.source).map_err(|error| self.with_hint(error))
    }

    /// Renders the template over `conversation`, with the special tokens as variables (`bos_token`, ...).
    pub(crate) fn render(&self, conversation: &Conversation<'_>, special: &SpecialTokens) -> Result<String> {
        if conversation.messages.is_empty() {
            return Err(Error::input("a chat template needs at least one message, got none"));
        }
        let mut messages: Vec<Message> = conversation
            .messages
            .iter()
            .map(|message| {
                let message = message.for_template();
                let joined = message.has_parts() && !self.takes_parts(message.role(), special);
                if joined { message.with_joined_parts() } else { message }
            })
            .collect();
        let continued = match conversation.end {
            End::Continued => Some(self.tag_last(&mut messages)?),
            End::Closed | End::GenerationPrompt => None,
        };
        let rendered = self.render_messages(&messages, conversation, special);
        let rendered = rendered.map_err(|error| self.with_hint(error))?;
        let rendered = match continued {
            Some(text) => self.cut_at_tag(rendered, &text)?,
            None => rendered,
        };
        if rendered.trim().is_empty() {
            return Err(self.with_hint(Error::template(&self.path, None, "writes nothing")));
        }
        Ok(rendered)
    }

    /// Adds to the error of a broken template what to do about it.
    fn with_hint(&self, error: Error) -> Error {
        match (error.kind(), self.origin) {
            (ErrorKind::Template { .. }, Origin::Model) => error.hint(
                "take the file from the model's repository again, or give another with setting `chat_template`",
            ),
            (ErrorKind::Template { .. }, Origin::User) => {
                error.hint("mend this template, or choose another with setting `chat_template`")
            }
            _ => error,
        }
    }

    /// Renders `messages` unchanged, in place of those of `conversation`, with everything else of `conversation`.
    fn render_messages(
        &self,
        messages: &[Message],
        conversation: &Conversation<'_>,
        special: &SpecialTokens,
    ) -> Result<String> {
        let mut variables: BTreeMap<&str, Value> =
            special.named().map(|(name, token)| (name, Value::from(token))).collect();
        variables.insert("documents", Value::from(()));
        let more = conversation.variables.iter();
        variables.extend(more.map(|(name, value)| (name.as_str(), Value::from(Serde(Python(value))))));
        let messages: Vec<_> = messages.iter().map(|message| PythonObject(message.fields())).collect();
        variables.insert("messages", Value::from(Serde(messages)));
        let tools = conversation.tools.map(|tools| tools.iter().map(Python).collect::<Vec<_>>());
        variables.insert("tools", Value::from(Serde(tools)));
        variables.insert("add_generation_prompt", Value::from(conversation.end == End::GenerationPrompt));
        render(&self.path, &self.source, Value::from_pairs(variables))
    }

    /// True if the template takes messages of `role` with a list of parts, as the templates of vision models do. Most
    /// other templates write the list out as Python or JSON would, or fail, as they do in transformers; for them the
    /// texts of the parts are joined.
    fn takes_parts(&self, role: &str, special: &SpecialTokens) -> bool {
        let all = self.takes_parts.get_or_init(|| ROLES.map(|role| self.try_parts(role, special)));
        ROLES.iter().zip(all).any(|(tried, &takes)| *tried == role && takes)
    }

    /// Renders a message of `role` with two parts and looks for both, unquoted.
    fn try_parts(&self, role: &str, special: &SpecialTokens) -> bool {
        let texts = ["What is the first part?", "And the second?"];
        let parts = texts.map(|text| serde_json::json!({"type": "text", "text": text}));
        let message = serde_json::json!({"role": role, "content": parts});
        let Ok(message) = serde_json::from_value(message).map(Message::from_object) else { return false };
        let Ok(message) = message else { return false };
        let messages = match role {
            "system" => vec![message, Message::new("user", "Hi")],
            "assistant" => vec![Message::new("user", "Hi"), message],
            _ => vec![message],
        };
        let conversation =
            Conversation { messages: &messages, tools: None, variables: &Map::new(), end: End::Closed };
        let Ok(rendered) = self.render_messages(&messages, &conversation, special) else { return false };
        texts.iter().all(|text| {
            let before = rendered.split_once(text).map(|(before, _)| before);
            before.is_some_and(|before| !before.ends_with(['\'', '"']))
        })
    }

    /// Puts the tag behind the last message and returns its text.
    fn tag_last(&self, messages: &mut [Message]) -> Result<String> {
        let text = messages.last_mut().and_then(Message::last_text);
        let text = text.filter(|_| self.mentions("content")).ok_or_else(|| {
            Error::file(
                &self.path,
                "chat template: the last message has no text that it could be continued from",
            )
        })?;
        let continued = text.clone();
        text.push_str(TAG);
        Ok(continued)
    }

    /// Returns `rendered` up to the tag, without the white space before the tag if the template trims the end of
    /// messages. Fails if the template leaves out or changes `text`, the beginning of the answer.
    fn cut_at_tag(&self, mut rendered: String, text: &str) -> Result<String> {
        let at = rendered.rfind(TAG.trim_end()).filter(|_| rendered.contains(text.trim()));
        let Some(at) = at else {
            return Err(Error::file(
                &self.path,
                "chat template: leaves out or changes the beginning of the answer, so that it cannot be continued",
            ));
        };
        let is_trimmed = !rendered[at..].starts_with(TAG);
        rendered.truncate(at);
        if is_trimmed {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(rendered)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    //! The expected prompts are those of transformers 5.23.
    use super::super::message::Message;
    use super::super::testing::{fixture, folder, sentencepiece};
    use super::super::tokenizer::Tokenizer;
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
        turns.iter().map(|(role, content)| Message::new(role, *content)).collect()
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
        let error = apply(MISTRAL, &[("user", "a"), ("user", "b")], true).unwrap_err();
        assert!(error.hint_text().unwrap().contains("the template refuses these messages"), "{error:?}");
        let error = error.to_string();
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
}
