//! Flags that would do nothing beside others are wrong usage: the message names both, and nothing is started.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{bundled, make, mixbit, stderr, succeeded};

fn quantize(home: &Path, more: &[&str]) -> Output {
    make("quantize", &bundled(), &home.join("out"), more)
}

#[track_caller]
fn is_refused(output: &Output, expected: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
    for part in expected {
        assert!(stderr(output).contains(part), "{part}: {}", stderr(output));
    }
    assert!(!stderr(output).contains("estimated"), "{}", stderr(output));
}

#[test]
fn quantize_names_both() {
    let home = tempfile::tempdir().unwrap();
    for (more, expected) in [
        (&["--bits", "4", "--activation-memory", "1MB"][..], ["--activation-memory says", "with --bits"]),
        (&["--mode", "mxfp4", "--samples", "8"], ["--samples says", "with --mode"]),
        (&["--bits", "4", "--method", "fisher"], ["--bits", "--method"]),
        (&["--mode", "mxfp4", "--rounding", "gptq"], ["--rounding gptq", "with --mode"]),
        (&["--mode", "nvfp4", "--rounding", "search"], ["--rounding search", "with --mode"]),
        (
            &["--recipe", "uniform-4bit", "--method", "alignment"],
            ["--method is for choosing bits", "--recipe leaves no choice"],
        ),
        (&["--bits", "4", "--rounding", "gptq", "--resume", "--dry-run"], ["--dry-run", "--resume"]),
        (&["--recipe", "balanced", "--group-size", "32"], ["--recipe", "--group-size"]),
        (
            &["--bits", "4", "--format", "npz", "--max-shard-size", "1MB"],
            ["--max-shard-size", "--format npz"],
        ),
    ] {
        is_refused(&quantize(home.path(), more), &expected);
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_table_leaves_nothing_to_measure() {
    let home = tempfile::tempdir().unwrap();
    let table = home.path().join("table.json");
    let (table, model) = (table.to_str().unwrap(), bundled());
    let few = ["--samples", "4", "--sequence-length", "32", "--rounding", "rtn"];
    let analyze = ["analyze", "--model", model.to_str().unwrap(), "--out", table];
    succeeded(&mixbit([&analyze[..], &few].concat()));
    let chosen = ["--sensitivities", table, "--target-bpw", "4"];
    let with = |more: &[&str]| quantize(home.path(), &[&chosen[..], more].concat());
    let idle = ["--samples says", "--sensitivities and rounding to nearest"];
    is_refused(&with(&["--rounding", "rtn", "--no-eval", "--samples", "4"]), &idle);
    let fixed = ["--recipe", "uniform-4bit", "--sensitivities", table];
    is_refused(&quantize(home.path(), &fixed), &["--sensitivities is for choosing bits", "--recipe"]);
    succeeded(&with(&["--rounding", "rtn", "--no-eval"]));
}

#[test]
fn others_name_both_too() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (bundled(), home.path().join("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let eval = ["eval", "--model", model, "--data", text, "--overwrite"];
    is_refused(&mixbit(eval), &["--json <FILE>|--save-reference <FILE>"]);
    let npz = ["--format", "npz", "--max-shard-size", "1MB"];
    is_refused(&make("convert", &bundled(), Path::new(out), &npz), &["--max-shard-size", "--format npz"]);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

/// A command that is repeated until it succeeds may always have `--resume`.
#[test]
fn nothing_to_resume_is_a_note_however_bits_are_chosen() {
    let home = tempfile::tempdir().unwrap();
    let few = ["--samples", "2", "--sequence-length", "32", "--no-eval"];
    for (name, more) in
        [("fixed", &["--bits", "4"][..]), ("mixed", &[&["--target-bpw", "4"][..], &few].concat())]
    {
        let out = home.path().join(name);
        let output = make("quantize", &bundled(), &out, &[more, &["--resume"]].concat());
        succeeded(&output);
        let beside = |kind: &str| out.with_extension(kind).display().to_string();
        let [layers, rounds, blocks, steps] = ["rounding", "refining", "blocks", "partial"].map(beside);
        let note = format!(
            "note: --resume has nothing to continue: no unfinished work in {layers}, {rounds}, {blocks} or {steps}; \
             starting from the beginning\n"
        );
        assert!(stderr(&output).contains(&note), "{}", stderr(&output));
    }
    // Work of another kind is neither continued nor discarded.
    let out = home.path().join("other");
    let journal = out.with_extension("rounding");
    fs::write(&journal, "{}").unwrap();
    let output = make("quantize", &bundled(), &out, &["--bits", "4", "--resume"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("was begun with --rounding gptq") && text.contains("--overwrite"), "{text}");
    assert_eq!(fs::read(&journal).unwrap(), b"{}");
}
