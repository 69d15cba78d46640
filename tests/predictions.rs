//! Predictions for whole models, against measurements on held-out text.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{bundled, json_file, make, mixbit, stderr, succeeded};
use serde_json::Value;

const LENGTH: [&str; 2] = ["--sequence-length", "256"];

fn table(out: &Path, more: &[&str]) -> Value {
    let model = bundled();
    let paths = ["analyze", "--model", model.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = mixbit(paths.iter().chain(&LENGTH).chain(more));
    succeeded(&output);
    assert!(stderr(&output).contains("estimated: measuring "), "{}", stderr(&output));
    json_file(out)
}

/// Returns the predicted KL divergence of a model made in `out`, over the measured one.
fn predicted_over_measured(out: &Path, more: &[&str]) -> f64 {
    succeeded(&make("quantize", &bundled(), out, &[more, &LENGTH].concat()));
    let record = json_file(&out.join("mixbit-report.json"));
    record["predicted_kl"].as_f64().unwrap() / record["evaluation"]["kl_mean"].as_f64().unwrap()
}

#[test]
fn gptq_leaves_what_is_predicted_for_text_apart() {
    let home = tempfile::tempdir().unwrap();
    let scores = home.path().join("table.json");
    table(&scores, &[]);
    for target in ["2.5", "3.5", "4.5"] {
        let more = ["--target-bpw", target, "--sensitivities", scores.to_str().unwrap()];
        let ratio = predicted_over_measured(&home.path().join(target), &more);
        assert!((0.7..1.4).contains(&ratio), "{target} bpw: {ratio}");
    }
}

#[test]
fn few_sequences_of_a_long_text_are_predicted_for_the_rest_of_it() {
    let home = tempfile::tempdir().unwrap();
    for (samples, rounding) in [("4", "gptq"), ("16", "search")] {
        let more = ["--target-bpw", "4.5", "--samples", samples, "--rounding", rounding];
        let ratio = predicted_over_measured(&home.path().join(samples), &more);
        assert!((0.6..1.6).contains(&ratio), "{samples} sequences, {rounding}: {ratio}");
    }
}

#[test]
fn every_kind_of_layer_is_tried_in_the_first_block_and_the_middle_one() {
    let home = tempfile::tempdir().unwrap();
    let few = ["--samples", "16", "--candidates", "2,4 x 64"];
    let correction = table(&home.path().join("gptq.json"), &few)["correction"].clone();
    let factor = |way: &str, block: usize, kind: &str, bits: &str| {
        correction[way][format!("model.layers.{block}.{kind}")][bits].as_f64().unwrap()
    };
    let kinds = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| format!("self_attn.{name}"));
    let kinds =
        kinds.into_iter().chain(["gate", "up", "down"].map(|name| format!("feed_forward.{name}_proj")));
    let kinds: Vec<String> = kinds.collect();
    for (block, bits) in [(0, "2"), (0, "4"), (2, "2"), (2, "4")] {
        for kind in &kinds {
            let [search, gptq] = ["search", "gptq"].map(|way| factor(way, block, kind, bits));
            assert!((0.5..3.0).contains(&search), "{block} {kind} {bits}: {search}");
            assert!(gptq > 0.0 && gptq < search, "{block} {kind} {bits}: {gptq} of {search}");
        }
    }
    assert_eq!(correction["gptq"].as_object().unwrap().len(), 2 * kinds.len());

    let searched = table(&home.path().join("search.json"), &[&few[..], &["--rounding", "search"]].concat());
    assert!(searched["correction"]["gptq"].is_null());
    assert_eq!(searched["correction"]["search"].as_object().unwrap().len(), 2 * kinds.len());
}
