//! A clone without git-lfs has pointers in place of files: each is named, whatever it is opened for.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{bundled, copy_folder, fixtures, make, mixbit, stderr, stdout};

const POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef0123456789abcdef\nsize 3000000\n";

#[track_caller]
fn refused(arguments: &[&str], file: &Path) {
    let output = mixbit(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected =
        format!("{}: is a Git LFS pointer, not the file\nhint: run `git lfs pull`", file.display());
    assert!(text.contains(&expected), "no `{expected}` in {text}");
}

#[test]
fn in_the_place_of_a_models_files() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    copy_folder(&bundled(), &model);
    let path = model.to_str().unwrap();
    for name in [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        let file = model.join(name);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, POINTER).unwrap();
        refused(&["run", "--model", path, "--prompt", "Hi", "-m", "1"], &file);
        let found = stdout(&mixbit(["check", path]));
        assert!(found.contains(&format!("{name}: is a Git LFS pointer")), "{name}: {found}");
        fs::write(&file, whole).unwrap();
    }
    let record = model.join("mixbit-report.json");
    fs::write(&record, POINTER).unwrap();
    refused(&["report", path, "--out", home.path().join("x.html").to_str().unwrap()], &record);
    fs::remove_file(&record).unwrap();
    // Without an index the weight files speak for themselves.
    let index = model.join("model.safetensors.index.json");
    fs::write(&index, POINTER).unwrap();
    let output = mixbit(["run", "--model", path, "--prompt", "Hi", "-m", "1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("index.json cannot be read (is a Git LFS pointer"),
        "{}",
        stderr(&output)
    );
    fs::remove_file(&index).unwrap();
    // Nor does one get into another model.
    let file = model.join("special_tokens_map.json");
    fs::write(&file, POINTER).unwrap();
    let out = home.path().join("out");
    refused(&["convert", "--hf-path", path, "--mlx-path", out.to_str().unwrap()], &file);
    assert!(!out.exists());
    fs::remove_file(&file).unwrap();
    for name in ["chat_template.jinja", "additional_chat_templates/rag.jinja"] {
        let file = model.join(name);
        let whole = fs::read(&file).ok();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, POINTER).unwrap();
        for (command, more) in [("convert", &[][..]), ("quantize", &["--bits", "4"])] {
            let output = make(command, &model, &out, more);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            let expected = format!("error: {}: is a Git LFS pointer, not the file", file.display());
            assert!(text.starts_with(&expected), "{text}");
        }
        refused(&["pack", path, "--out", out.to_str().unwrap()], &file);
        if let Some(whole) = whole {
            fs::write(&file, whole).unwrap();
        }
    }
    // One that is not used is no hindrance.
    let text = home.path().join("text.jsonl");
    let line = format!("{{\"prompt\": \"Hi\", \"completion\": \"{}\"}}\n", "A trait says it. ".repeat(20));
    fs::write(&text, line.repeat(8)).unwrap();
    for arguments in [
        &["run", "--model", path, "--prompt", "Hi", "-m", "1"][..],
        &["eval", "--model", path, "--data", text.to_str().unwrap()],
    ] {
        let output = mixbit(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn in_the_place_of_what_is_beside_a_model() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("pointer.toml");
    let (path, out) = (file.to_str().unwrap(), home.path().join("out"));
    let (model, out) = (bundled(), out.to_str().unwrap().to_owned());
    let model = model.to_str().unwrap();
    fs::write(&file, POINTER).unwrap();
    let quantize = ["quantize", "--hf-path", model, "--mlx-path", &out, "--target-bpw", "4"];
    refused(&["run", "--model", model, "--prompt-file", path], &file);
    refused(&["eval", "--model", model, "--data", path], &file);
    refused(
        &[
            "eval",
            "--model",
            model,
            "--data",
            fixtures().join("README.md").to_str().unwrap(),
            "--reference",
            path,
        ],
        &file,
    );
    refused(&[&quantize[..], &["--sensitivities", path]].concat(), &file);
    refused(&[&quantize[..], &["--recipe", path]].concat(), &file);
    refused(&["curve", path], &file);
    refused(&["inspect", path], &file);
    refused(&["unpack", path, "--out", &out], &file);
    // A text about pointers is a text.
    fs::write(&file, format!("{POINTER}{}", "This is what a pointer looks like. ".repeat(40))).unwrap();
    let output = mixbit(["eval", "--model", model, "--data", path]);
    assert!(output.status.success(), "{}", stderr(&output));
}
