//! `mixbit run` and `logits` as a user runs them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{bundled, mixbit, stderr, stdout, succeeded};
use mixbit::tokenizer::Tokenizer;

fn run(more: &[&str]) -> std::process::Output {
    let model = bundled();
    let mut arguments = vec!["run", "--model", model.to_str().unwrap()];
    arguments.extend(more);
    mixbit(arguments)
}

#[test]
fn greedy_is_deterministic_and_seeds_repeat() {
    let prompt = ["--prompt", "What is a trait?", "--max-tokens", "24", "--ignore-eos"];
    let with = |more: &[&str]| {
        let output = run(&[&prompt[..], more].concat());
        succeeded(&output);
        stdout(&output)
    };
    assert_eq!(with(&[]), with(&["--seed", "9"]));
    let sampled = ["--temperature", "1", "--top-p", "0.95"];
    assert_eq!(
        with(&[&sampled[..], &["--seed", "3"]].concat()),
        with(&[&sampled[..], &["--seed", "3"]].concat())
    );
    assert_ne!(
        with(&[&sampled[..], &["--seed", "3"]].concat()),
        with(&[&sampled[..], &["--seed", "4"]].concat())
    );
}

#[test]
fn bos_comes_once_with_and_without_the_template() {
    let tokenizer = Tokenizer::from_dir(&bundled()).unwrap();
    let bos = tokenizer.id_to_token(tokenizer.bos_token_id().unwrap()).unwrap();
    let more: [&[&str]; 4] =
        [&[], &["--disable-chat-template"], &["--system", "Be brief."], &["--system", ""]];
    for more in more {
        let output = run(&[&["--prompt", "Hi", "--max-tokens", "1", "--verbose"], more].concat());
        succeeded(&output);
        let text = stderr(&output);
        let line = text.lines().find(|line| line.starts_with("prompt text: ")).unwrap();
        assert_eq!(line.matches(&bos).count(), 1, "{line}");
        assert_eq!(line.contains("boxed"), more.is_empty(), "{line}");
        assert!(text.contains("stop tokens: [1, 4]"), "{text}");
    }
}

#[test]
fn the_prompt_may_come_from_stdin_or_as_tokens() {
    let model = bundled();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(["run", "--model", model.to_str().unwrap(), "--prompt", "-", "--max-tokens", "8"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"What is a trait?\n").unwrap();
    let piped = child.wait_with_output().unwrap();
    let direct = run(&["--prompt", "What is a trait?", "--max-tokens", "8"]);
    succeeded(&piped);
    assert_eq!(stdout(&piped), stdout(&direct));
    let tokens = run(&["--prompt-tokens", "0,5,6", "--max-tokens", "4", "--ignore-eos"]);
    succeeded(&tokens);
    assert!(stderr(&tokens).contains("prompt: 3 tokens") && stderr(&tokens).contains("generation: 4 tokens"));
}

#[test]
fn wrong_requests_are_refused() {
    for (arguments, code, expected) in [
        (&["--prompt", ""][..], 1, "the prompt is empty"),
        (&["--prompt", "-x", "--temperature", "-1"], 1, "--temperature"),
        (&["--prompt", "x", "--top-p", "1.5"], 1, "--top-p"),
        (&["--prompt", "x", "--disable-chat-template", "--system", "y"], 2, "cannot be used with"),
        (&["--prompt-tokens", "5000"], 1, "not below the vocabulary"),
        (&[], 2, "required"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn without_its_libraries_the_binary_says_what_to_do() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(["run", "--model", bundled().to_str().unwrap(), "--prompt", "x"])
        .env("MIXBIT_ENGINE_DIR", home.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    let text = stderr(&output);
    assert!(
        text.contains("libmixbit_engine.so") && text.contains("hint: ") && text.contains("cargo xtask setup"),
        "{text}"
    );
}

#[test]
fn logits_are_numpy_arrays() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("logits.npz");
    let model = bundled();
    let arguments =
        ["logits", "--model", model.to_str().unwrap(), "--tokens", "0,5,9", "--out", out.to_str().unwrap()];
    succeeded(&mixbit(arguments));
    let file = mixbit::checkpoint::Checkpoint::open(&out).unwrap();
    let logits = file.get("logits").unwrap();
    assert_eq!(logits.shape, [3, 1024]);
    assert_eq!(file.get("tokens").unwrap().bytes(), [0u32, 5, 9].map(u32::to_le_bytes).concat());
    assert!(logits.bytes().as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()));
}
