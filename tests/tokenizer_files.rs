//! Files beside weights and vocabulary: broken ones, and those that name the tokens that end a text.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{bundled, copy_folder, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Copies the bundled model, with the file `name` changed.
fn model(name: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&bundled(), home.path());
    let path = home.path().join(name);
    let mut value = json_file(&path);
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
    home
}

fn run(model: &Path, more: &[&str]) -> std::process::Output {
    let plain = ["run", "--model", model.to_str().unwrap(), "--prompt", "Hi", "--max-tokens", "4", "--json"];
    mixbit(plain.iter().chain(more))
}

#[test]
fn a_broken_generation_config_is_left_out() {
    for text in ["", "{\"eos_token_id\": 1,}", "[1]", "{\"eos_token_id\": \"<eos>\"}"] {
        let model = model("config.json", |_| {});
        fs::write(model.path().join("generation_config.json"), text).unwrap();
        let output = run(model.path(), &["--verbose"]);
        succeeded(&output);
        let said = stderr(&output);
        let note = said.lines().find(|line| line.starts_with("note: ")).unwrap();
        assert!(note.contains("generation_config.json") && note.ends_with("the file is not used"), "{note}");
        assert!(said.contains("stop tokens: 1 `<|end_of_text|>` (config.json), 4 `<|eot_id|>`"), "{said}");
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let output = make("convert", model.path(), &out, &[]);
        succeeded(&output);
        assert!(stderr(&output).contains("generation_config.json"), "{}", stderr(&output));
        assert!(!out.join("generation_config.json").exists());
        assert!(out.join("tokenizer.json").exists());
    }
}

#[test]
fn the_tokenizers_own_eos_token_ends_a_text() {
    let model = model("generation_config.json", |config| config["eos_token_id"] = json!([1]));
    let config = json_file(&model.path().join("config.json"));
    let stale =
        config.as_object().unwrap().clone().into_iter().chain([("eos_token_id".to_owned(), json!(1))]);
    fs::write(model.path().join("config.json"), Value::Object(stale.collect()).to_string()).unwrap();
    let output = run(model.path(), &["--logit-bias", "4=100", "--verbose"]);
    succeeded(&output);
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&answer["finish_reason"], &answer["stopped_by"]["token"]), (&json!("stop"), &json!(4)));
    let named = "stop tokens: 1 `<|end_of_text|>` (config.json, generation_config.json), 4 `<|eot_id|>` (the tokenizer)";
    assert!(stderr(&output).contains(named), "{}", stderr(&output));
    // A template's header tokens end nothing.
    let output = run(model.path(), &["--logit-bias", "2=100"]);
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answer["finish_reason"], "length");
    let output = run(model.path(), &["--logit-bias", "4=100", "--ignore-eos", "--verbose"]);
    assert!(stderr(&output).contains("stop tokens: none"), "{}", stderr(&output));
}

#[test]
fn an_unknown_decoder_is_an_error() {
    let model = model("tokenizer.json", |tokenizer| tokenizer["decoder"]["type"] = json!("ByteLevle"));
    for output in [run(model.path(), &[]), mixbit(["check", model.path().to_str().unwrap()])] {
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let said = stdout(&output) + &stderr(&output);
        assert!(said.contains("tokenizer.json: not a tokenizer that can be read"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
