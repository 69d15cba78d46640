//! Texts longer than a model's context, as a user meets them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/sink.rs"]
mod sink;

use std::fs;
use std::path::Path;

use common::{bundled, fixtures, mixbit, stderr, stdout, succeeded};
use serde_json::Value;
use sink::with_sink;

fn run(more: &[&str]) -> std::process::Output {
    let model = bundled();
    mixbit([&["run", "--model", model.to_str().unwrap()], more].concat())
}

/// Evaluates on the text that mixbit carries.
fn eval(more: &[&str]) -> std::process::Output {
    let model = bundled();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/text/corpus/default.txt");
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    mixbit([&["eval", "--model", model, "--data", text], more].concat())
}

fn figures(more: &[&str]) -> Value {
    let output = eval(&[more, &["--json", "-"]].concat());
    succeeded(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// The bundled model was trained on sequences of 256 tokens.
#[test]
fn ten_times_the_context_costs_neither_memory_nor_quality() {
    let stream = ["--stream", "--context-size", "256"];
    let long = figures(&[&stream[..], &["--max-tokens", "2560"]].concat());
    let short = figures(&[&stream[..], &["--max-tokens", "600"]].concat());
    assert_eq!(long["cache_bytes"], short["cache_bytes"]);
    assert!(long["tokens_forgotten"].as_u64().unwrap() >= 2560 - 256, "{long}");
    let perplexity = |figures: &Value| figures["perplexity"].as_f64().unwrap();
    let windows = figures(&["--sequence-length", "256", "--max-tokens", "2560"]);
    assert!(perplexity(&long) < 1.05 * perplexity(&windows), "{long} {windows}");
    let everything = figures(&["--stream", "--context-size", "100000", "--max-tokens", "2560"]);
    assert_eq!(everything["tokens_forgotten"], 0);
    assert!(perplexity(&everything) > 2.0 * perplexity(&long), "{everything} {long}");
}

#[test]
fn heads_that_rest_on_the_first_token_need_sinks() {
    let home = tempfile::tempdir().unwrap();
    let model = with_sink(home.path());
    // One document: the first token comes once.
    let text = home.path().join("text.txt");
    fs::write(&text, mixbit::text::corpus::Text::built_in().replace("<|endoftext|>", "")).unwrap();
    let perplexity = |model: &Path, more: &[&str]| {
        let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
        let base =
            ["eval", "--model", model, "--data", text, "--stream", "--max-tokens", "1280", "--json", "-"];
        let output = mixbit([&base[..], &["--context-size", "128"], more].concat());
        succeeded(&output);
        serde_json::from_str::<Value>(&stdout(&output)).unwrap()["perplexity"].as_f64().unwrap()
    };
    let trained = perplexity(&bundled(), &[]);
    let (with, without) = (perplexity(&model, &[]), perplexity(&model, &["--num-sink-tokens", "0"]));
    assert!((with / trained - 1.0).abs() < 0.01, "{with} {trained}");
    assert!(without > 3.0 * with, "{without} {with}");
}

#[test]
fn a_stream_that_fits_is_scored_as_a_window() {
    let window = figures(&["--sequence-length", "200", "--max-tokens", "200"]);
    let stream = figures(&["--stream", "--prefill-step-size", "33", "--max-tokens", "200"]);
    let ratio = stream["perplexity"].as_f64().unwrap() / window["perplexity"].as_f64().unwrap();
    assert!((ratio - 1.0).abs() < 1e-5 && stream["context_size"] == 2048, "{stream} {window}");
}

#[test]
fn prompt_and_answer_may_be_longer_than_the_context() {
    let prompt = "What is a trait? ".repeat(20);
    let base = ["--prompt", &prompt, "--max-tokens", "90", "--ignore-eos", "--verbose"];
    let output = run(&[&base[..], &["--context-size", "64"]].concat());
    succeeded(&output);
    let text = stderr(&output);
    assert!(text.contains("the context is 64: then the middle is forgotten"), "{text}");
    assert!(text.contains("tokens forgotten") && text.contains("generation: 90 tokens"), "{text}");
    let steps = run(&[&base[..], &["--context-size", "64", "--prefill-step-size", "5"]].concat());
    assert_eq!(stdout(&steps), stdout(&output), "the step changes nothing");
    let all = run(&base);
    assert!(!stderr(&all).contains("forgotten") && stdout(&all) != stdout(&output));
}

#[test]
fn quantized_keys_and_values_are_smaller() {
    let held = |more: &[&str]| {
        let output = eval(&[&["--stream", "--max-tokens", "512", "--json", "-"], more].concat());
        succeeded(&output);
        let figures: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (figures["cache_bytes"].as_f64().unwrap(), figures["perplexity"].as_f64().unwrap())
    };
    let (whole, eight, four) = (held(&[]), held(&["--kv-bits", "8"]), held(&["--kv-bits", "4"]));
    let half = held(&["--kv-dtype", "float16"]);
    assert!(half.0 <= 0.5 * whole.0 && (half.1 / whole.1 - 1.0).abs() < 1e-4, "{whole:?} {half:?}");
    assert!(four.0 < 0.65 * eight.0 && eight.0 < 0.32 * whole.0, "{whole:?} {eight:?} {four:?}");
    assert!(
        (eight.1 / whole.1 - 1.0).abs() < 2e-3 && (four.1 / whole.1 - 1.0).abs() < 0.05,
        "{eight:?} {four:?}"
    );
    let output = run(&["--prompt", "Hi", "--max-tokens", "3", "--kv-bits", "8", "--verbose"]);
    succeeded(&output);
    assert!(stderr(&output).contains("cache: "), "{}", stderr(&output));
}

#[test]
fn learned_positions_end_where_they_are_told_to() {
    let model = fixtures().join("golden/gpt-bigcode-one-kv-head");
    let model = model.to_str().unwrap();
    let refused = |arguments: &[&str], expected: &str| {
        let output = mixbit([&["run", "--model", model, "--ignore-chat-template"], arguments].concat());
        assert!(!output.status.success() && stderr(&output).contains(expected), "{}", stderr(&output));
        stdout(&output)
    };
    for flag in ["--context-size", "--num-sink-tokens", "--eviction-batch-percent"] {
        let expected = format!("{flag}: this model has 256 learned positions, and cannot forget");
        refused(&["--prompt", "the", flag, "8"], &expected);
    }
    let long = ["--prompt", "the", "--ignore-eos", "--max-tokens", "300"];
    let text = refused(&long, "the context of 256 tokens is full");
    assert!(text.len() > 100 && text.ends_with('\n'), "the error begins a line: {text:?}");
    refused(&["--prompt", &"a ".repeat(300)], "the context of 256 tokens is full");
    let tokens = vec!["5"; 257].join(",");
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("logits.npz");
    let logits = ["logits", "--model", model, "--tokens", &tokens, "--out", out.to_str().unwrap()];
    let output = mixbit(logits);
    assert!(stderr(&output).contains("the model has learned positions for 256"), "{}", stderr(&output));
}

#[test]
fn contradictions_are_refused() {
    let sinks = run(&["--prompt", "x", "--context-size", "16", "--num-sink-tokens", "16"]);
    assert_eq!(sinks.status.code(), Some(2));
    let text = stderr(&sinks);
    assert!(text.contains("16 sink tokens leave nothing of a context of 16 tokens"), "{text}");
    assert!(text.contains("hint: ") && text.contains("--num-sink-tokens"), "{text}");
    for (arguments, code, expected) in [
        (
            &["--stream", "--kv-bits", "8", "--kv-group-size", "64"][..],
            2,
            "does not divide the model's head_dim 32",
        ),
        (&["--stream", "--kv-group-size", "32"], 2, "--kv-bits"),
        (&["--stream", "--kv-bits", "5"], 2, "expected one of [4, 8]"),
        (&["--kv-bits", "8"], 2, "--kv-bits goes with --stream only"),
        (&["--kv-dtype", "float16"], 2, "--kv-dtype goes with --stream only"),
        (&["--stream", "--kv-dtype", "float16", "--kv-bits", "8"], 2, "cannot be used with"),
        (&["--stream", "--sequence-length", "64"], 2, "cannot be used with"),
        (&["--stream", "--batch-size", "2"], 2, "cannot be used with"),
        (&["--context-size", "64"], 2, "--context-size goes with --stream only"),
        (&["--num-sink-tokens", "4"], 2, "--num-sink-tokens goes with --stream only"),
        (&["--eviction-batch-percent", "10"], 2, "--eviction-batch-percent goes with --stream only"),
        (&["--prefill-step-size", "512"], 2, "--prefill-step-size goes with --stream only"),
        (&["--stream", "--eviction-batch-percent", "0"], 2, "it lies between 1 and 100"),
    ] {
        let output = eval(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}
