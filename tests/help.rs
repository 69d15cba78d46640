//! Texts that users read: help texts and tables, as snapshots (`INSTA_UPDATE=always cargo test` renews them).
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{fixtures, mixbit, stdout, succeeded};

fn said(arguments: &[&str]) -> String {
    let output = mixbit(arguments);
    succeeded(&output);
    stdout(&output)
}

#[test]
fn help_of_every_command() {
    insta::assert_snapshot!("help", said(&["--help"]));
    for command in [
        "convert",
        "quantize",
        "dequantize",
        "analyze",
        "curve",
        "recipes",
        "inspect",
        "eval",
        "check",
        "report",
        "run",
        "chat",
        "logits",
        "pack",
        "unpack",
        "upload",
        "models",
    ] {
        insta::assert_snapshot!(format!("help-{command}"), said(&[command, "--help"]));
    }
}

#[test]
fn tables_of_inspect() {
    let model = fixtures().join("golden/quantized-by-mlx-lm/llama4-text-mixed-bits");
    let model = model.to_str().unwrap();
    insta::assert_snapshot!("inspect", said(&["inspect", model]));
    insta::assert_snapshot!("inspect-layers", said(&["inspect", "--layers", model]));
    insta::assert_snapshot!("inspect-json", said(&["inspect", "--json", model]));
}

#[test]
fn tables_of_a_single_file() {
    let file = "fixtures/golden/quantized-by-mlx-lm/llama4-text-mixed-bits/model.safetensors";
    insta::assert_snapshot!("inspect-file", said(&["inspect", file]));
    insta::assert_snapshot!("inspect-file-layers", said(&["inspect", "--layers", file]));
}
