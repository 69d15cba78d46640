//! The user's settings for the chat template.

use serde_json::{Map, Value};

use super::templates::ChosenTemplate;

/// Settings of a [`Tokenizer`](super::tokenizer::Tokenizer)'s chat template; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateSettings {
    /// The template to use in place of the model's own; `None` keeps the model's.
    pub template: Option<ChosenTemplate>,
    /// Further variables, such as `enable_thinking`. Each overrides a special token of the same name, as in
    /// transformers.
    pub variables: Map<String, Value>,
    /// Definitions of tools that prompts offer to the model. A conversation of a text has its own.
    pub tools: Option<Vec<Value>>,
    /// Beginning of the last answer of each conversation of a text. A conversation without an answer ends with it.
    pub prefill: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    //! The expected prompts are those of transformers 5.23, but for parts that are joined.
    use serde_json::json;

    use super::super::message::Message;
    use super::super::testing::{folder, sentencepiece};
    use super::super::tokenizer::Tokenizer;
    use super::*;

    fn tokenizer(template: &str, settings: TemplateSettings) -> Tokenizer {
        let config = json!({"bos_token": "<s>", "chat_template": template}).to_string();
        let json = sentencepiece(true).to_string();
        let dir = folder(&[("tokenizer.json", &json), ("tokenizer_config.json", &config)]);
        Tokenizer::from_dir(dir.path()).unwrap().with_template(settings).unwrap()
    }

    fn message(value: &Value) -> Message {
        Message::from_object(value.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn variables_reach_the_template() {
        let template =
            "{{ bos_token }}{{ a | tojson }}{{ documents[0].text }}{{ b is none }}{{ messages[0].role }}";
        let variables = json!({"a": {"z": 1, "y": 1.0, "x": [null, true, "ü"]}, "b": null, "bos_token": "<S>",
            "documents": [{"text": "D"}], "typo": 1, "messages": "no"});
        let variables = variables.as_object().unwrap().clone();
        let tokenizer = tokenizer(template, TemplateSettings { variables, ..TemplateSettings::default() });
        let prompt = tokenizer.apply_chat_template(&[Message::new("user", "Hi")], true).unwrap().unwrap();
        assert_eq!(prompt, r#"<S>{"z": 1, "y": 1.0, "x": [null, true, "ü"]}DTrueuser"#);
        assert_eq!(
            tokenizer.template_notes(),
            ["the chat template does not read `typo`: it changes nothing"]
        );
    }

    #[test]
    fn tools_are_those_of_the_prompt_or_the_text() {
        let settings =
            TemplateSettings { tools: Some(vec![json!({"n": "f"})]), ..TemplateSettings::default() };
        let tokenizer = tokenizer("{{ 'x' if tools is none else tools | tojson }}", settings);
        let messages = [Message::new("user", "Hi")];
        let rendered = tokenizer.apply_chat_template(&messages, true).unwrap();
        assert_eq!(rendered.as_deref(), Some(r#"[{"n": "f"}]"#));
        let rendered = |tools| tokenizer.render_with_tools(&messages, tools).unwrap().unwrap();
        assert_eq!((rendered(None), rendered(Some(&[]))), ("x".to_owned(), "[]".to_owned()));
    }

    #[test]
    fn parts_are_joined_unless_the_template_takes_them() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let messages = [
            message(&json!({"role": "user", "content": parts})),
            message(&json!({"role": "assistant", "content": parts})),
            message(&json!({"role": "oracle", "content": parts})),
        ];
        let loop_over = |body: &str| format!("{{% for m in messages %}}{body};{{% endfor %}}");
        let for_user = "{% if m.role == 'user' %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% else %}\
            {{ '' + m.content }}{% endif %}";
        for (body, expected) in [
            ("{{ m.content }}", "ab;ab;ab;"),
            ("{{ m.content | tojson }}", r#""ab";"ab";"ab";"#),
            ("{{ m.content[0].text }}", ";;;"),
            (for_user, "[a][b];ab;ab;"),
        ] {
            let tokenizer = tokenizer(&loop_over(body), TemplateSettings::default());
            let rendered = tokenizer.apply_chat_template(&messages, false).unwrap().unwrap_or_default();
            assert_eq!(rendered, expected, "{body}");
        }
    }

    #[test]
    fn last_answers_begin_with_the_prefill() {
        let body = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ CONTENT }}</>{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        let rendered = |content: &str, messages: &[Value]| {
            let settings =
                TemplateSettings { prefill: Some("Sure, ".to_owned()), ..TemplateSettings::default() };
            let tokenizer = tokenizer(&body.replace("CONTENT", content), settings);
            let messages: Vec<Message> = messages.iter().map(message).collect();
            tokenizer.render_conversation(&messages, None).unwrap().unwrap()
        };
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let (hi, ho, and) = (said("user", "Hi"), said("assistant", " Ho"), said("user", "And?"));
        for (messages, trimmed, whole) in [
            (vec![hi.clone()], "<s><user>Hi</><assistant>Sure,", "<s><user>Hi</><assistant>Sure, "),
            (
                vec![hi.clone(), said("assistant", "Ho")],
                "<s><user>Hi</><assistant>Sure, Ho</>",
                "<s><user>Hi</><assistant>Sure, Ho</>",
            ),
            (
                vec![hi.clone(), ho, and],
                "<s><user>Hi</><assistant>Ho</><user>And?</><assistant>Sure,",
                "<s><user>Hi</><assistant> Ho</><user>And?</><assistant>Sure, ",
            ),
        ] {
            assert_eq!(rendered("m.content | trim", &messages), trimmed);
            assert_eq!(rendered("m.content", &messages), whole);
        }
        let parts = json!({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        assert_eq!(rendered("m.content", &[hi.clone(), parts]), "<s><user>Hi</><assistant>Sure, ab</>");
        let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]});
        assert_eq!(rendered("m.content", &[hi, call]), "<s><user>Hi</><assistant>Sure, </>");
    }

    #[test]
    fn answers_are_continued() {
        let body =
            "{% for m in messages %}<{{ m.role }}>{{ CONTENT }}</>{% endfor %}{{ add_generation_prompt }}";
        let continued = |content: &str, text: &Value| {
            let tokenizer = tokenizer(&body.replace("CONTENT", content), TemplateSettings::default());
            let last = message(&json!({"role": "assistant", "content": text}));
            tokenizer.continue_final_message(&[Message::new("user", "Hi"), last])
        };
        let prompt = |content: &str, text: &str| continued(content, &text.into()).unwrap().unwrap();
        assert_eq!(prompt("m.content", " Sure, "), "<user>Hi</><assistant> Sure, ");
        assert_eq!(prompt("m.content | trim", " Sure, "), "<user>Hi</><assistant>Sure,");
        assert_eq!(prompt("m.content", ""), "<user>Hi</><assistant>");
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(continued("m.content", &parts).unwrap().unwrap(), "<user>Hi</><assistant>ab");
        for (content, text) in
            [("m.content | upper", json!("Sure")), ("m.role", json!("x")), ("m.content", json!(null))]
        {
            let error = continued(content, &text).unwrap_err().to_string();
            assert!(error.contains("continued"), "{error}");
        }
    }
}
