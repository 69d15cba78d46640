//! Flags of chat templates, as a user gives them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{bundled, copy_folder, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

use mixbit::text::tokenizer::Tokenizer;

const SWITCH: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
    {% if add_generation_prompt %}[assistant]{% endif %}\
    {% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}";
const OFF: &str = r#"{"enable_thinking": false}"#;

/// Copies the model with this template, and these beside it.
fn model_of(template: Option<&str>, others: &[(&str, &str)]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&bundled(), home.path());
    let file = home.path().join("chat_template.jinja");
    match template {
        Some(template) => fs::write(file, template).unwrap(),
        None => fs::remove_file(file).unwrap(),
    }
    for (name, source) in others {
        fs::create_dir_all(home.path().join("additional_chat_templates")).unwrap();
        fs::write(home.path().join(format!("additional_chat_templates/{name}.jinja")), source).unwrap();
    }
    home
}

fn run(model: &Path, more: &[&str]) -> Output {
    let asked = ["run", "--model", model.to_str().unwrap(), "--prompt", "Hi", "--max-tokens", "8"];
    mixbit([&asked[..], more].concat())
}

/// Returns the answer's object, with the prompt as text.
fn answer(model: &Path, more: &[&str]) -> (Value, String) {
    let output = run(model, &[&["--json"], more].concat());
    succeeded(&output);
    let object: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(object["prompt_tokens"].clone()).unwrap();
    let prompt = Tokenizer::from_dir(model).unwrap().decode(&tokens, false).unwrap();
    (object, prompt)
}

#[track_caller]
fn is_refused(output: &Output, expected: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
    for part in expected {
        assert!(stderr(output).contains(part), "{part}: {}", stderr(output));
    }
}

fn file(home: &TempDir, name: &str, contents: &str) -> String {
    let path = home.path().join(name);
    fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn variables_reach_the_template_of_a_prompt() {
    let home = model_of(Some(SWITCH), &[]);
    assert_eq!(answer(home.path(), &[]).1, "[user]Hi[assistant]");
    let (object, prompt) = answer(home.path(), &["--chat-template-config", OFF]);
    assert_eq!(prompt, "[user]Hi[assistant]<think></think>");
    assert_eq!(object["chat_template"]["name"], "default");
    assert!(object["chat_template"]["file"].as_str().unwrap().ends_with("chat_template.jinja"));
    let unread = run(home.path(), &["--chat-template-config", r#"{"enable_thinkng": false}"#]);
    succeeded(&unread);
    assert!(stderr(&unread).contains("does not read `enable_thinkng`"), "{}", stderr(&unread));
    is_refused(&run(home.path(), &["--chat-template-config", "[1]"]), &["--chat-template-config", "object"]);
    is_refused(&run(home.path(), &["--chat-template-config", r#"{"tools": []}"#]), &["--tools"]);
}

#[test]
fn another_template_is_a_file_or_a_name() {
    let bare = model_of(None, &[]);
    let mine = file(&bare, "mine.jinja", "\u{feff}<{{ messages[0].content }}>");
    let (object, prompt) = answer(bare.path(), &["--chat-template", &mine]);
    assert_eq!((prompt.as_str(), &object["chat_template"]["file"]), ("<Hi>", &json!(mine)));
    assert_eq!(answer(bare.path(), &[]).0["chat_template"], Value::Null);
    is_refused(&run(bare.path(), &["--chat-template-config", OFF]), &["--chat-template-config needs a chat"]);
    is_refused(
        &run(bare.path(), &["--prefill-response", "x"]),
        &["--prefill-response needs a chat template"],
    );
    let broken = file(&bare, "broken.jinja", "{{ raise_exception('no roles') }}");
    let output = run(bare.path(), &["--chat-template", &broken]);
    assert_eq!(output.status.code(), Some(1));
    let hint = format!("hint: mend {broken}, or leave out --chat-template");
    assert!(stderr(&output).contains("no roles") && stderr(&output).contains(&hint), "{}", stderr(&output));
    let many = model_of(None, &[("tool_use", "T"), ("rag", "R")]);
    assert_eq!(answer(many.path(), &["--chat-template", "rag"]).1, "R");
    let output = run(many.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    for part in ["none is named `default`, only `rag`, `tool_use`", "choose one with --chat-template"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    let output = run(many.path(), &["--chat-template", "no"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("hint: give a Jinja file, or the name"), "{}", stderr(&output));
}

#[test]
fn tools_choose_their_template() {
    let home = model_of(Some(SWITCH), &[("tool_use", "{{ tools | tojson }}{{ messages[0].content }}")]);
    let tools = file(&home, "tools.json", r#"[{"z": 1, "a": {"b": 2.0}}]"#);
    let (object, prompt) = answer(home.path(), &["--tools", &tools]);
    assert_eq!(prompt, r#"[{"z": 1, "a": {"b": 2.0}}]Hi"#);
    assert_eq!(object["chat_template"]["name"], "tool_use");
    let without = model_of(Some(SWITCH), &[]);
    is_refused(
        &run(without.path(), &["--tools", &tools]),
        &["--tools: this model's chat template leaves out"],
    );
    is_refused(&run(home.path(), &["--tools", "-"]), &["--tools reads a file, not standard input"]);
    for (wrong, expected) in
        [("[]", "lists no tools"), ("{}", "found an object"), ("[1]", "key `[0]`"), ("[", "not valid JSON")]
    {
        let output = run(home.path(), &["--tools", &file(&home, "wrong.json", wrong)]);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains(expected) && text.contains("hint: "), "{text}");
    }
}

#[test]
fn flags_that_say_nothing_are_refused_or_harmless() {
    let home = model_of(Some(SWITCH), &[]);
    is_refused(&run(home.path(), &["--prefill-response", ""]), &["--prefill-response", "begins no answer"]);
    let (object, prompt) = answer(home.path(), &["--chat-template-config", "{}"]);
    let (plain, plain_prompt) = answer(home.path(), &[]);
    assert_eq!((&object["text"], prompt), (&plain["text"], plain_prompt));
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let model = home.path().to_str().unwrap();
    let eval = ["eval", "--model", model, "--data", data, "--max-tokens", "99"];
    succeeded(&mixbit([&eval[..], &["--chat-template-config", "{}"]].concat()));
}

#[test]
fn long_integers_reach_the_template() {
    let home = model_of(Some("{{ x }}{{ x | tojson }}{{ tools | tojson }}{{ messages[0].content }}"), &[]);
    let tools = file(&home, "tools.json", r#"[{"most": 18446744073709551616}]"#);
    let config = r#"{"x": [18446744073709551617]}"#;
    let (_, prompt) = answer(home.path(), &["--chat-template-config", config, "--tools", &tools]);
    let numbers = "[18446744073709551617]";
    assert_eq!(prompt, format!("{numbers}{numbers}[{{\"most\": 18446744073709551616}}]Hi"));
    let longer = format!("{{\"x\": {}}}", "9".repeat(40));
    is_refused(
        &run(home.path(), &["--chat-template-config", &longer]),
        &["key `x`", "does not fit in a signed 128-bit integer"],
    );
}

/// Returns a text of conversations.
fn conversations(home: &TempDir) -> String {
    let record = json!({"prompt": "Hi", "completion": "A trait says what a type can do. ".repeat(9)});
    file(home, "text.jsonl", &format!("{record}\n").repeat(8))
}

#[test]
fn a_broken_template_is_named_and_not_the_text() {
    let home = model_of(Some(SWITCH), &[]);
    let (model, text) = (home.path().to_str().unwrap(), conversations(&home));
    let out = home.path().join("table.json");
    let commands = [
        &["eval", "--model", model, "--data", &text][..],
        &["analyze", "--model", model, "--out", out.to_str().unwrap(), "--calibration", &text],
    ];
    for (name, source, fault) in [
        ("syntax.jinja", "a\n{% if %}", "chat template line 2: syntax error"),
        ("render.jinja", "{{ messages | nonsense }}", "chat template line 1: unknown filter"),
        ("bytes.jinja", " ", "chat template: writes nothing"),
    ] {
        let template = file(&home, name, source);
        for command in commands {
            let output = mixbit([command, &["--chat-template", &template]].concat());
            assert_eq!(output.status.code(), Some(1));
            let said = stderr(&output);
            let error = said.lines().find(|line| line.starts_with("error: ")).unwrap();
            assert!(error.starts_with(&format!("error: {template}: {fault}")), "{said}");
            assert!(error.ends_with(&format!(", for line 1 of {text}")), "{said}");
            assert!(
                said.contains("hint: mend this template, or choose another with --chat-template"),
                "{said}"
            );
        }
        let output = chat(home.path(), "Hi\n", &["--chat-template", &template]);
        assert!(stderr(&output).contains("hint: mend this template"), "{}", stderr(&output));
    }
    // The conversation's fault is still the text's.
    let refuses = file(&home, "refuses.jinja", "{{ raise_exception('no roles') }}");
    let output = mixbit([commands[0], &["--chat-template", &refuses]].concat());
    let expected =
        format!("error: {text}: key `completion`: line 1: {refuses}: chat template line 1: no roles");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[test]
fn a_broken_template_that_is_not_used_stops_nothing() {
    let home = model_of(None, &[]);
    let model = home.path();
    let config = model.join("tokenizer_config.json");
    let mut keys: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    keys["chat_template"] = json!(5);
    fs::write(&config, keys.to_string()).unwrap();
    let mine = file(&home, "mine.jinja", "<{{ messages[0].content }}>");
    let in_config = "key `chat_template`: expected a string, an object or a list";
    for (expected, is_file) in [(in_config, false), ("chat_template.jinja: invalid utf-8", true)] {
        if is_file {
            fs::write(model.join("chat_template.jinja"), b"\xff{{").unwrap();
        }
        for more in [&["--chat-template", mine.as_str()][..], &["--disable-chat-template"]] {
            let output = run(model, more);
            succeeded(&output);
            let said = stderr(&output);
            assert!(said.contains(expected) && said.contains("; it is not used"), "{said}");
        }
        let output = run(model, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("give another template with --chat-template"),
            "{}",
            stderr(&output)
        );
        let out = tempfile::tempdir().unwrap();
        let output = make("convert", model, &out.path().join("out"), &[]);
        succeeded(&output);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        let name = if is_file { "chat_template.jinja" } else { "tokenizer_config.json" };
        assert_eq!(fs::read(out.path().join("out").join(name)).unwrap(), fs::read(model.join(name)).unwrap());
        let output = mixbit(["check", model.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        assert!(stdout(&output).contains(expected), "{}", stdout(&output));
        let text = conversations(&home);
        let eval = ["eval", "--model", model.to_str().unwrap(), "--data", &text];
        let output = mixbit(eval);
        assert!(
            stderr(&output).contains("give another template with --chat-template"),
            "{}",
            stderr(&output)
        );
        succeeded(&mixbit([&eval[..], &["--chat-template", &mine]].concat()));
    }
}

#[test]
fn a_syntax_error_that_is_not_used_is_noted() {
    let home = model_of(Some("a\n{% if %}"), &[]);
    let mine = file(&home, "mine.jinja", "<{{ messages[0].content }}>");
    let expected = "chat_template.jinja: chat template line 2: syntax error";
    let out = tempfile::tempdir().unwrap();
    let mut outputs = vec![
        make("convert", home.path(), &out.path().join("a"), &[]),
        make("quantize", home.path(), &out.path().join("b"), &["--bits", "4", "--no-eval"]),
    ];
    for more in [&["--chat-template", mine.as_str()][..], &["--disable-chat-template"]] {
        outputs.push(run(home.path(), more));
    }
    for output in outputs {
        succeeded(&output);
        let notes = stderr(&output);
        assert_eq!(notes.matches(expected).count(), 1, "{notes}");
    }
    let output = run(home.path(), &[]);
    assert!(
        stderr(&output).contains(expected) && !stderr(&output).contains("note: chat"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_broken_legacy_file_is_noted() {
    let home = model_of(None, &[]);
    fs::write(home.path().join("chat_template.json"), "{").unwrap();
    let out = tempfile::tempdir().unwrap();
    let expected = "chat template: chat_template.json is left out: ";
    for output in [run(home.path(), &[]), make("convert", home.path(), &out.path().join("a"), &[])] {
        succeeded(&output);
        assert_eq!(stderr(&output).matches(expected).count(), 1, "{}", stderr(&output));
    }
    let checked = stdout(&mixbit(["check", home.path().to_str().unwrap()]));
    let expected = expected.trim_start_matches("chat template: ");
    assert_eq!(checked.matches(expected).count(), 1, "{checked}");
}

#[test]
fn an_answer_begins_with_its_prefill() {
    let home = model_of(Some(SWITCH), &[]);
    let prefill = ["--prefill-response", "Sure, "];
    let (object, prompt) = answer(home.path(), &prefill);
    assert_eq!(prompt, "[user]Hi[assistant]Sure, ");
    let text = object["text"].as_str().unwrap();
    assert_eq!(object["prefill"], "Sure, ");
    let ids = object["prompt_tokens"].as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let model = home.path().to_str().unwrap();
    let again = mixbit(["run", "--model", model, "--prompt-tokens", &ids.join(","), "--max-tokens", "8"]);
    assert_eq!(format!("Sure, {}", stdout(&again)), format!("{text}\n"));
    assert_eq!(stdout(&run(home.path(), &prefill)), format!("{text}\n"));
    for (flag, value) in [("--disable-chat-template", None), ("--prompt-tokens", Some("1,2"))] {
        let asked = ["run", "--model", model, "--prefill-response", "x", flag];
        is_refused(&mixbit(asked.into_iter().chain(value)), &["--prefill-response", flag]);
    }
    // A box that the prefill opens is the answer's.
    let boxed = run(home.path(), &["--prefill-response", "\\boxed{7} is", "--extract-boxed"]);
    assert_eq!(stdout(&boxed), "7\n");
    // A template that takes white space off leaves it out of the answer too.
    let trims = model_of(Some(&SWITCH.replace("m.content", "m.content | trim")), &[]);
    let (object, prompt) = answer(trims.path(), &prefill);
    assert!(prompt.ends_with("Sure,") && object["prefill"] == "Sure,", "{prompt}");
}

fn chat(model: &Path, lines: &str, more: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(["chat", "--model", model.to_str().unwrap(), "--max-tokens", "8"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn turns_of_a_chat_begin_with_the_prefill() {
    let home = model_of(Some(SWITCH), &[]);
    let saved = home.path().join("talk.jsonl");
    let lines = format!("Hi\nAnd?\n/save {}\n", saved.display());
    let output = chat(home.path(), &lines, &["--prefill-response", "Sure, ", "--verbose"]);
    succeeded(&output);
    let first = answer(home.path(), &["--prefill-response", "Sure, "]).0;
    assert!(stdout(&output).starts_with(&format!("{}\nSure, ", first["text"].as_str().unwrap())));
    assert!(stderr(&output).contains("from the turns before"), "{}", stderr(&output));
    let saved: Value = serde_json::from_str(&fs::read_to_string(saved).unwrap()).unwrap();
    assert_eq!(saved["messages"][1]["content"], first["text"]);
}

/// Templates of models that think omit the thoughts of earlier turns.
#[test]
fn a_template_may_rewrite_earlier_answers() {
    let forgets = "{% for m in messages %}[{{ m.role }}]{{ m.content if m.role == 'user' else 'said' }}{% endfor %}\
        {% if add_generation_prompt %}[assistant]{% endif %}";
    let home = model_of(Some(forgets), &[]);
    let output = chat(home.path(), "Hi\nAnd?\n", &["--verbose"]);
    succeeded(&output);
    let model = home.path().to_str().unwrap();
    let prompt = "[user]Hi[assistant]said[user]And?[assistant]";
    let ids = Tokenizer::from_dir(home.path()).unwrap().encode(prompt, false).unwrap();
    let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let anew = stdout(&mixbit(["run", "--model", model, "--max-tokens", "8", "--prompt-tokens", &ids]));
    assert!(stdout(&output).ends_with(&anew), "{anew} {}", stdout(&output));
    assert!(stderr(&output).contains("from the turns before"), "the first prompt: {}", stderr(&output));
}

#[test]
fn texts_are_written_out_as_asked() {
    let home = model_of(Some(SWITCH), &[]);
    let record = json!({"prompt": "Hi", "completion": "A trait says what a type can do. ".repeat(9)});
    let text = file(&home, "text.jsonl", &format!("{record}\n").repeat(4));
    let model = home.path().to_str().unwrap();
    let tokens = |more: &[&str]| {
        let eval = ["eval", "--model", model, "--data", &text, "--sequence-length", "16", "--json", "-"];
        let output = mixbit([&eval[..], more].concat());
        succeeded(&output);
        let figures: Value = serde_json::from_str(&stdout(&output)).unwrap();
        figures["tokens"].as_u64().unwrap() + figures["tokens_left_out"].as_u64().unwrap()
    };
    let plain = tokens(&[]);
    assert!(tokens(&["--chat-template-config", OFF]) > plain);
    let short = file(&home, "short.jinja", "{{ messages[1].content }}");
    assert!(tokens(&["--chat-template", &short]) < plain);
    assert!(tokens(&["--prefill-response", "A trait says what a type can do. "]) > plain);
    let table = home.path().join("table.json");
    let analyze = ["analyze", "--model", model, "--out", table.to_str().unwrap(), "--calibration", &text];
    let few = ["--samples", "4", "--sequence-length", "32", "--chat-template-config", OFF];
    succeeded(&mixbit([&analyze[..], &few].concat()));
    let table_with = |more: &[&str]| {
        let overwriting = ["--overwrite", "--samples", "4", "--sequence-length", "32"];
        succeeded(&mixbit([&analyze[..], &overwriting, more].concat()));
        fs::read_to_string(&table).unwrap()
    };
    assert_ne!(table_with(&[]), table_with(&["--prefill-response", "A trait"]));
}

/// An answer that the text has not is the prefill, without an end of turn.
#[test]
fn questions_get_an_answer_to_continue() {
    let home = model_of(Some(&SWITCH.replace("{{ m.content }}", "{{ m.content }}</>")), &[]);
    let model = home.path().to_str().unwrap();
    let question =
        r#"{"messages": [{"role": "user", "content": "What does a trait say, and what does it not?"}]}"#;
    let text = file(&home, "text.jsonl", &format!("{question}\n"));
    let eval = ["eval", "--model", model, "--data", &text, "--json", "-"];
    let output = mixbit([&eval[..], &["--prefill-response", "It says "]].concat());
    succeeded(&output);
    let figures: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let prompt = "[user]What does a trait say, and what does it not?</>[assistant]It says ";
    let expected = Tokenizer::from_dir(home.path()).unwrap().encode(prompt, false).unwrap();
    assert_eq!(figures["tokens"].as_u64().unwrap() as usize, expected.len() - 1);
    // A template that changes the answer names the line.
    let shouts = model_of(Some(&SWITCH.replace("{{ m.content }}", "{{ m.content | upper }}")), &[]);
    let (model, text) = (shouts.path().to_str().unwrap(), file(&shouts, "text.jsonl", question));
    let output = mixbit(["eval", "--model", model, "--data", &text, "--prefill-response", "It says "]);
    assert_eq!(output.status.code(), Some(1));
    for part in ["key `messages`: line 1: ", "cannot be continued"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

#[test]
fn answers_of_a_report_begin_with_the_prefill() {
    let home = model_of(Some(SWITCH), &[]);
    let page = home.path().join("page.html");
    let report = ["report", "--out", page.to_str().unwrap(), "--prompt", "Hi", "--max-tokens", "8"];
    let begun = ["--prefill-response", "Sure, it is "];
    succeeded(&mixbit([&report[..], &begun, &[home.path().to_str().unwrap()]].concat()));
    assert!(fs::read_to_string(&page).unwrap().contains("Sure, it is "));
    // Beside a distance that is measured on mixbit's own text.
    let model = home.path().to_str().unwrap();
    let compared = ["--overwrite", "--reference", model, model];
    for more in [&begun[..], &["--chat-template", "default"]] {
        succeeded(&mixbit([&report[..], more, &compared].concat()));
    }
    let bare = model_of(None, &[]);
    let refused = mixbit([&report[..], &["--overwrite", bare.path().to_str().unwrap()], &begun].concat());
    is_refused(&refused, &["--prefill-response needs a chat template"]);
}

#[test]
fn flags_without_conversations_are_refused() {
    let home = model_of(Some(SWITCH), &[]);
    let model = home.path();
    let config = ["--chat-template-config", OFF];
    let plain = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let eval = ["eval", "--model", model.to_str().unwrap(), "--data", plain];
    for more in [&[][..], &["--stream"]] {
        let output = mixbit([&eval[..], &config, more].concat());
        is_refused(&output, &["--chat-template-config says", "no conversation in"]);
        let output = mixbit([&eval[..], &["--prefill-response", "x"], more].concat());
        is_refused(&output, &["--prefill-response says", "no conversation in"]);
    }
    let empty = tempfile::tempdir().unwrap();
    let out = empty.path().join("out");
    let fixed = make("quantize", model, &out, &["--bits", "4", config[0], config[1]]);
    is_refused(&fixed, &["--chat-template-config says", "no text is read"]);
    let built_in = make("quantize", model, &out, &["--target-bpw", "4", "--chat-template", "default"]);
    is_refused(&built_in, &["--chat-template says", "the built-in text"]);
    let report = mixbit(["report", model.to_str().unwrap(), "--chat-template", "default"]);
    is_refused(&report, &["--chat-template says", "nothing is asked"]);
    let report = mixbit(["report", model.to_str().unwrap(), "--max-tokens", "8"]);
    is_refused(&report, &["--max-tokens limits answers", "nothing is asked", "or leave --max-tokens out"]);
    assert!(!out.exists());
}
