//! `mixbit chat` as a user runs it, through pipes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{bundled, copy_folder, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use mixbit::text::tokenizer::Tokenizer;

fn start(model: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(["chat", "--model", model.to_str().unwrap()])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn chat_with(model: &Path, lines: &str, more: &[&str]) -> Output {
    let mut child = start(model, more);
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn chat(lines: &str, more: &[&str]) -> Output {
    chat_with(&bundled(), lines, more)
}

/// Returns for each turn the tokens of the prompt, and the number of them from the turns before.
fn prompts(output: &Output) -> Vec<(usize, usize)> {
    let text = stderr(output);
    let number = |word: Option<&str>| word.unwrap().trim_start_matches('(').parse().unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("prompt: "));
    lines
        .map(|line| {
            let total = number(line.split(' ').next());
            let reused = if line.contains('(') { number(line.split(' ').nth(2)) } else { 0 };
            (total, reused)
        })
        .collect()
}

#[test]
fn a_line_is_a_turn_and_the_first_is_what_run_says() {
    let output = chat("What is a trait?\n\nAnd a PEP?\n", &["--max-tokens", "8"]);
    succeeded(&output);
    let run = mixbit(["run", "--model", bundled().to_str().unwrap(), "-p", "What is a trait?", "-m", "8"]);
    let first = stdout(&run);
    let all = stdout(&output);
    let second = all.strip_prefix(&first).unwrap();
    assert!(!second.trim().is_empty(), "{all:?}");
}

#[test]
fn only_new_tokens_go_through_the_model() {
    // A template that gives answers back as they were, line ends at their start included.
    let home = tempfile::tempdir().unwrap();
    let model = home.path();
    copy_folder(&bundled(), model);
    let template = fs::read_to_string(model.join("chat_template.jinja")).unwrap();
    fs::write(
        model.join("chat_template.jinja"),
        template.replace("message['content'] | trim", "message['content']"),
    )
    .unwrap();
    let small = home.path().join("small");
    succeeded(&make("quantize", &bundled(), &small, &["--bits", "3"]));
    let forgetful = ["--context-size", "48"];
    for more in [&[][..], &forgetful, &[&forgetful[..], &["--draft-model", small.to_str().unwrap()]].concat()]
    {
        saves_work_and_changes_nothing(model, more);
    }
}

/// Two turns with `more` flags are computed once and answer as if all were new, without a draft model.
fn saves_work_and_changes_nothing(model: &Path, more: &[&str]) {
    let asked = "What is a trait?\nAnd a PEP?\n";
    let output = chat_with(model, asked, &[&["-m", "12", "--verbose"], more].concat());
    succeeded(&output);
    assert_eq!(stderr(&output).contains("tokens accepted"), more.contains(&"--draft-model"));
    assert_eq!(stderr(&output).contains("then the middle is forgotten"), !more.is_empty());
    assert_eq!(stderr(&output).contains("tokens forgotten"), !more.is_empty(), "{}", stderr(&output));
    let [(first, nothing), (second, reused)] = prompts(&output)[..] else { panic!("{}", stderr(&output)) };
    assert_eq!(nothing, 0);
    // The prompt and all of the answer but its last token, which never went into the model.
    assert_eq!(reused, first + 11, "{}", stderr(&output));
    assert!(second > reused);
    // And the answer is the one that the same tokens get when they are new.
    let context = &more[..more.len().min(2)];
    let run = |more: &[&str]| -> Value {
        let arguments = ["run", "--model", model.to_str().unwrap(), "--json", "-m", "12"];
        let output = mixbit([&arguments, context, more].concat());
        succeeded(&output);
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let once = run(&["--prompt", "What is a trait?"]);
    let rest = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd a PEP?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n";
    let rest = Tokenizer::from_dir(model).unwrap().encode(rest, false).unwrap();
    let ids = |key: &str| once[key].as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let tokens =
        [ids("prompt_tokens"), ids("tokens"), rest.iter().map(ToString::to_string).collect()].concat();
    assert_eq!(tokens.len(), second);
    let again = run(&["--prompt-tokens", &tokens.join(",")]);
    let texts = [&once, &again].map(|answer| format!("{}\n", answer["text"].as_str().unwrap()));
    assert_eq!(stdout(&output), texts.concat());
}

#[test]
fn the_length_is_noted_once_a_conversation() {
    let notes = |lines: &str| {
        let output = chat(lines, &["--context-size", "48", "--max-tokens", "30"]);
        succeeded(&output);
        stderr(&output).matches("then the middle is forgotten").count()
    };
    assert_eq!(notes("What is a trait?\nAnd a PEP?\n"), 1);
    assert_eq!(notes("What is a trait?\nAnd a PEP?\n/reset\nWhat is a trait?\nAnd a PEP?\n"), 2);
}

#[test]
fn commands_change_the_conversation() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("talk.jsonl");
    let lines = format!(
        "/system Be brief.\nHi\n/reset\n/system\n//x\n/save {0}\n/save {0}\n/system \"\"\nHo\n/quit\nnever\n",
        file.display()
    );
    let output = chat(&lines, &["--max-tokens", "3", "--verbose"]);
    succeeded(&output);
    assert!(stderr(&output).contains("system message: \"Be brief.\""), "{}", stderr(&output));
    let saved = json_file(&file);
    let roles: Vec<&str> =
        saved["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant"], "what came before /reset is gone");
    assert_eq!(saved["messages"][1]["content"], "/x");
    assert_eq!(prompts(&output).len(), 3, "nothing after /quit is answered: {}", stderr(&output));
    // A saved conversation is a calibration text, and not overwritten by another one.
    let again = chat(&format!("Hi\n/save {}\n", file.display()), &["--max-tokens", "1"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("already exists"), "{}", stderr(&again));
    for (lines, expected) in
        [("/etc/hosts?\n", "no command /etc/hosts?"), ("/save x\n", "nothing has been said")]
    {
        let output = chat(lines, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains(expected) && stderr(&output).contains("hint: "),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_failed_save_does_not_end_the_conversation() {
    let home = tempfile::tempdir().unwrap();
    let taken = home.path().join("taken");
    fs::write(&taken, "mine").unwrap();
    let nowhere = home.path().join("taken/talk.jsonl");
    for (path, expected) in [
        (taken.to_str().unwrap(), "already exists, and this conversation was not saved to it before"),
        (nowhere.to_str().unwrap(), "a file is where a folder is needed"),
        (home.path().to_str().unwrap(), "is a directory"),
        ("/proc/version", "/proc/version"),
    ] {
        let output = chat(&format!("Hi\n/save {path}\nHo\n"), &["-m", "2", "--verbose"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected) && text.matches("hint: ").count() == 2, "{text}");
        assert!(text.trim_end().contains("the conversation could not be saved there"), "{text}");
        assert_eq!(prompts(&output).len(), 2, "{text}");
    }
    assert_eq!(fs::read_to_string(taken).unwrap(), "mine");
}

#[test]
fn commands_say_what_they_did() {
    let output = chat("/system\n/system Be brief.\n/system\n/system \"\"\n/reset\n", &[]);
    succeeded(&output);
    let text = stderr(&output);
    let lines: Vec<&str> = text.lines().collect();
    for (line, expected) in lines.iter().zip([
        "the template's own",
        "from now on; what was said stays",
        "\"Be brief.\"",
        "no system message from now on",
        "what was said is forgotten; the system message stays",
    ]) {
        assert!(line.contains(expected), "no `{expected}` in {line}");
    }
    assert_eq!(lines.len(), 5, "{text}");
}

/// The model's template removes the line ends that its answers begin with.
#[test]
fn what_is_forgotten_is_not_read_again() {
    let asked = "What is a trait?\nAnd a PEP?\nWhat is a PEP?\nAnd what is a trait?\n";
    let output = chat(asked, &["-m", "30", "--verbose", "--context-size", "64"]);
    succeeded(&output);
    assert!(stderr(&output).contains("tokens forgotten"), "{}", stderr(&output));
    assert!(stdout(&output).starts_with('\n') || stdout(&output).contains("\n\n"), "or this tests nothing");
    let prompts = prompts(&output);
    assert_eq!(prompts.len(), 4);
    for pair in prompts.windows(2) {
        // All but the answer's last token, which was chosen and never read.
        assert_eq!(pair[1].1, pair[0].0 + 29, "{prompts:?}");
    }
    // What is undone is read anew.
    let output =
        chat("What is a trait?\n/reset\nAnd a PEP?\n", &["-m", "30", "--verbose", "--context-size", "64"]);
    succeeded(&output);
    let text = stderr(&output);
    let reused: Vec<&str> = text.lines().filter(|line| line.contains("from the turns before")).collect();
    assert!(reused.is_empty(), "{reused:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    // Answers of one letter, without end and without line ends.
    let letter = Tokenizer::from_dir(&bundled()).unwrap().token_to_id("a").unwrap();
    let bias = format!("{letter}=1000");
    let mut child = start(&bundled(), &["--max-tokens", "100000", "--logit-bias", &bias]);
    let mut stdin = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    for question in ["What is a trait?\n", "And a PEP?\n"] {
        stdin.write_all(question.as_bytes()).unwrap();
        stdin.flush().unwrap();
        let mut some = [0; 20];
        output.read_exact(&mut some).unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut line = String::new();
        while line.trim() != "stopped" {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "the program has ended");
        }
        // What is left of this answer must not pass for the beginning of the next.
        output.read_until(b'\n', &mut Vec::new()).unwrap();
    }
    stdin.write_all(b"/quit\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_a_template_there_are_no_turns() {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&bundled(), home.path());
    fs::remove_file(home.path().join("chat_template.jinja")).unwrap();
    let output = mixbit(["chat", "--model", home.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no chat template"), "{}", stderr(&output));
}
