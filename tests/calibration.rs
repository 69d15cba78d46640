//! Calibration as a user asks for it: how much text there is, what is held out, and flags that would do nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Output;

use common::{bundled, make, stderr, succeeded};

/// Runs `quantize --dry-run`, which measures nothing where bits are fixed.
fn dry(more: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let output = make("quantize", &bundled(), &out, &[&["--bits", "4", "--dry-run"], more].concat());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    output
}

#[track_caller]
fn refused(more: &[&str], code: i32, expected: &str) {
    let output = dry(more);
    assert_eq!(output.status.code(), Some(code), "{more:?}: {}", stderr(&output));
    assert!(stderr(&output).contains(expected), "{more:?}: {}", stderr(&output));
}

#[track_caller]
fn said(more: &[&str]) -> String {
    let output = dry(more);
    succeeded(&output);
    stderr(&output)
}

const GPTQ: [&str; 2] = ["--rounding", "gptq"];

#[test]
fn fewer_sequences_than_wanted_are_said() {
    let long = [&GPTQ[..], &["--sequence-length", "1024"]].concat();
    let found = said(&long);
    assert!(found.contains("of 64 sequences of 1024 tokens"), "{found}");
    refused(&[&long[..], &["--samples", "64"]].concat(), 1, "--samples asks for 64");
    let few = said(&[&GPTQ[..], &["--samples", "4", "--sequence-length", "32"]].concat());
    assert!(few.contains("few tokens: predictions and GPTQ rest on 128 tokens"), "{few}");
    let enough = said(&[&GPTQ[..], &["--samples", "32", "--sequence-length", "256"]].concat());
    assert!(!enough.contains("note:"), "{enough}");
}

#[test]
fn nothing_is_held_out_that_nobody_measures_on() {
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text.txt");
    fs::write(&text, "A trait tells the compiler about functionality that a type has.\n".repeat(9)).unwrap();
    let text = text.to_str().unwrap();
    let more =
        |more: &[&'static str]| [&GPTQ[..], &["--samples", "1", "--sequence-length", "32"], more].concat();
    assert!(said(&more(&[])).contains(" x 32 held out"));
    let alone = said(&more(&["--no-eval"]));
    assert!(alone.contains("calibration: 1 x 32 tokens") && !alone.contains("held out"), "{alone}");
    let elsewhere = said(&[&more(&[])[..], &["--eval-data", text]].concat());
    assert!(!elsewhere.contains("held out"), "{elsewhere}");
}

#[test]
fn a_model_does_not_depend_on_whether_it_is_measured() {
    let home = tempfile::tempdir().unwrap();
    let weights = |name: &str, more: &[&str]| {
        let out = home.path().join(name);
        let flags = ["--bits", "3", "--rounding", "gptq", "--samples", "8", "--sequence-length", "48"];
        succeeded(&make("quantize", &bundled(), &out, &[&flags, more].concat()));
        fs::read(out.join("model.safetensors")).unwrap()
    };
    let measured = weights("measured", &[]);
    assert!(measured == weights("not-measured", &["--no-eval"]));
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    assert!(measured == weights("measured-elsewhere", &["--eval-data", readme]));
}

#[test]
fn flags_that_would_do_nothing_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text.txt");
    fs::write(&text, "A trait tells the compiler.\n".repeat(99)).unwrap();
    let text = text.to_str().unwrap();
    refused(&["--samples", "8"], 2, "--samples says what to measure on");
    refused(&["--seed", "1"], 2, "--seed says");
    refused(&["--sequence-length", "64"], 2, "--sequence-length says");
    refused(&["--sequence-length", "50000"], 2, "it lies between 2 and 32768");
    refused(&["--calibration", text, "--no-eval", "--rounding", "rtn"], 2, "--calibration says");
    let held_out = ["--calibration", text, "--samples", "1", "--sequence-length", "32"];
    assert!(said(&held_out).contains("held out"));
    succeeded(&dry(&["--eval-data", text, "--sequence-length", "64"]));
    let best = said(&["--quality", "best"]);
    assert!(best.contains("note: the preset best leaves --refine out"), "{best}");
}

#[test]
fn steps_of_a_preset_can_be_left_out() {
    let of = |more: &[&str]| {
        let small = ["--samples", "16", "--sequence-length", "32", "--quality", "best", "--rounding", "gptq"];
        let all = said(&[&small, more].concat());
        all.lines().find(|line| line.contains("estimated")).unwrap().to_owned()
    };
    assert!(of(&[]).contains("distilling"));
    let left = of(&["--distill", "0"]);
    assert!(left.contains("rounding") && !left.contains("distilling"), "{left}");
    assert!(!said(&["--quality", "best", "--refine", "0"]).contains("leaves --refine out"));
}

#[test]
fn fine_tuning_starts_from_searched_scales() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let flags = ["--bits", "4", "--distill", "1", "--samples", "8", "--sequence-length", "32", "--no-eval"];
    succeeded(&make("quantize", &bundled(), &out, &flags));
    assert_eq!(common::json_file(&out.join("mixbit-report.json"))["rounding"], "search");
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(!card.contains("Predicted"), "{card}");
}

#[test]
fn codes_that_learn_from_little_text_are_noted() {
    let learn = |more: &[&str]| {
        said(
            &[&["--distill", "1", "--learn", "codes", "--rounding", "rtn", "--sequence-length", "256"], more]
                .concat(),
        )
    };
    let few = learn(&["--samples", "40"]);
    assert!(few.contains("note: codes learn from 10240 tokens, and fewer than some 12000 may"), "{few}");
    assert!(few.contains("--calibration generated:250000"), "{few}");
    let enough = learn(&["--samples", "48"]);
    assert!(!enough.contains("codes learn from"), "{enough}");
}
