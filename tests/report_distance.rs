//! `mixbit report --reference`: the distance from the float model is measured where it is asked for or not known, and omitted
//! where it was measured of other weights.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    RawCheckpoint, bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded,
};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// Returns the bundled model at 4 bits per weight, with a record or without.
fn quantized(home: &Path, recorded: bool) -> PathBuf {
    let model = home.join("small");
    let settings = ["--target-bpw", "4", "--samples", "4", "--sequence-length", "64"];
    succeeded(&make("quantize", &bundled(), &model, &settings));
    if !recorded {
        fs::remove_file(model.join("mixbit-report.json")).unwrap();
    }
    model
}

fn arguments<'a>(model: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["report", model.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat()
}

fn report(model: &Path, out: &Path, more: &[&str]) -> String {
    succeeded(&mixbit(arguments(model, out, more)));
    fs::read_to_string(out).unwrap()
}

fn parsed(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap()
}

fn section<'a, 'input>(document: &'a Document<'input>, id: &str) -> Node<'a, 'input> {
    document.descendants().find(|node| node.attribute("id") == Some(id)).unwrap()
}

fn text_of(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

/// Returns the cells of the rows of all tables in a section.
fn rows(section: Node<'_, '_>) -> Vec<Vec<String>> {
    let rows = section.descendants().filter(|node| node.has_tag_name("tr"));
    rows.map(|row| row.children().filter(Node::is_element).map(text_of).collect()).collect()
}

fn tokens_drawn(section: Node<'_, '_>) -> u64 {
    let details = section.descendants().find(|node| node.has_tag_name("details")).unwrap();
    rows(details).iter().skip(1).map(|row| row[2].parse::<u64>().unwrap()).sum()
}

#[test]
fn a_text_is_measured_on_as_eval_does_it() {
    let home = tempfile::tempdir().unwrap();
    let (model, float) = (quantized(home.path(), true), bundled());
    let float = float.to_str().unwrap();
    let given = ["--reference", float, "--data", TEXT, "--sequence-length", "64"];
    let eval =
        [&["eval", "--model", model.to_str().unwrap(), "--max-tokens", "650", "--json", "-"], &given[..]];
    let eval = mixbit(eval.concat());
    succeeded(&eval);
    let expected: Value = serde_json::from_slice(&eval.stdout).unwrap();
    let text = report(
        &model,
        &home.path().join("page.html"),
        &[&given[..], &["--max-data-tokens", "650", "--max-tokens", "2"]].concat(),
    );
    let document = parsed(&text);
    let distance = section(&document, "distance");
    let said = text_of(distance);
    assert!(said.contains("Measured on README.md (10 windows of 64 tokens)"), "{said}");
    assert!(said.contains("measured for this page"), "{said}");
    assert_eq!(expected["tokens"], tokens_drawn(distance));
    let figures = rows(distance);
    for (name, key) in
        [("perplexity", "perplexity"), ("perplexity of the float model", "reference_perplexity")]
    {
        let row = figures.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(row[1], format!("{:.4}", expected[key].as_f64().unwrap()), "{name}");
    }
    let curve = rows(section(&document, "curve"));
    let point = curve.iter().find(|row| row[0] == "this model, measured").unwrap();
    let (drawn, measured) = (point[3].parse::<f64>().unwrap(), expected["kl_mean"].as_f64().unwrap());
    assert!((drawn / measured - 1.0).abs() < 0.006, "{drawn} {measured}");
    assert!(text.contains("answers and distance by MLX 0."));
    let recorded = json_file(&model.join("mixbit-report.json"))["evaluation"]["tokens"].as_u64().unwrap();
    assert_ne!(expected["tokens"], recorded, "or this would show nothing");
    let text =
        report(&model, &home.path().join("recorded.html"), &["--reference", float, "--max-tokens", "2"]);
    let document = parsed(&text);
    let distance = section(&document, "distance");
    assert_eq!(tokens_drawn(distance), recorded);
    assert!(
        text_of(distance)
            .contains("records of when the model was made; mixbit report --reference MODEL --data")
    );
    // What is recorded is the distance from another model.
    let itself = ["--reference", model.to_str().unwrap(), "--max-tokens", "2"];
    let text = report(&model, &home.path().join("itself.html"), &itself);
    assert!(text_of(section(&parsed(&text), "distance")).contains("measured for this page"));
}

#[test]
fn where_nothing_is_recorded_the_own_text_is_measured_on() {
    let home = tempfile::tempdir().unwrap();
    let (model, float) = (quantized(home.path(), false), home.path().join("float"));
    let text = report(&model, &home.path().join("alone.html"), &[]);
    let said = text_of(section(&parsed(&text), "distance"));
    assert!(
        said.contains("Left out") && said.contains("--reference MODEL --data FILE measures it"),
        "{said}"
    );
    copy_folder(&bundled(), &float);
    let more = ["--reference", float.to_str().unwrap(), "--max-tokens", "2"];
    let text = report(&model, &home.path().join("page.html"), &more);
    let document = parsed(&text);
    let distance = section(&document, "distance");
    assert!(text_of(distance).contains("Measured on held-out part of the built-in text"));
    assert!(tokens_drawn(distance) > 1000 && distance.descendants().any(|node| node.has_tag_name("figure")));
    let cards = text_of(section(&document, "bytes").parent().unwrap());
    assert!(cards.contains("Same likeliest token"), "{cards}");
    for folder in [&model, &float] {
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
    }
    let out = home.path().join("without.html");
    let output = mixbit(arguments(&model, &out, &more));
    succeeded(&output);
    assert!(stderr(&output).contains("its distance from the reference is left out"), "{}", stderr(&output));
    let text = fs::read_to_string(&out).unwrap();
    assert!(text_of(section(&parsed(&text), "distance")).contains("Left out"));
}

#[test]
fn what_cannot_be_measured_on_gives_no_page() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (quantized(home.path(), true), home.path().join("page.html"));
    let (float, other) = (bundled(), fixtures().join("golden/llama4-text-tied"));
    let (float, other) = (float.to_str().unwrap(), other.to_str().unwrap());
    let file = |name: &str, contents: &str| {
        let path = home.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (empty, short) = (file("empty.txt", ""), file("short.txt", "a"));
    for (code, more, expected) in [
        (1, &["--reference", float, "--data", &empty][..], "empty.txt: is empty"),
        (1, &["--reference", float, "--data", &short], "at least 3 are needed"),
        (1, &["--reference", float, "--data", "no/such.txt"], "no/such.txt"),
        (1, &["--reference", other, "--data", TEXT], "vocabulary"),
        (2, &["--data", TEXT], "--reference <MODEL>"),
        (2, &["--reference", float, "--sequence-length", "9"], "--data <FILE>"),
        (2, &["--reference", float, "--max-data-tokens", "9"], "--data <FILE>"),
        (2, &["--reference", float, "--data", TEXT, "--max-data-tokens", "2"], "it must be at least 3"),
        (2, &["--max-tokens", "9"], "--max-tokens limits answers, and nothing is asked"),
    ] {
        let output = mixbit(arguments(&model, &out, more));
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{more:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("asking"), "known before any work");
        assert!(!out.exists(), "{more:?}");
    }
}

#[test]
fn a_record_of_other_weights_is_left_out() {
    let home = tempfile::tempdir().unwrap();
    let model = quantized(home.path(), true);
    let weights = model.join("model.safetensors");
    let mut raw = RawCheckpoint::read(&weights);
    raw.get_mut("model.layers.1.self_attn.v_proj.scales").3.reverse();
    raw.write(&weights);
    let out = home.path().join("report.html");
    let output = mixbit(["report", model.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    succeeded(&output);
    let expected = "mixbit-report.json is about other weights than these: left out";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    let text = fs::read_to_string(&out).unwrap();
    assert!(text_of(section(&parsed(&text), "distance")).contains("Left out"));
    let checked = mixbit(["check", model.to_str().unwrap()]);
    assert!(stdout(&checked).contains("mixbit-report.json is about other weights than these"));
}

#[test]
fn a_model_that_cannot_answer_is_blamed_by_tensor() {
    let home = tempfile::tempdir().unwrap();
    let model = quantized(home.path(), true);
    let weights = model.join("model.safetensors");
    let mut raw = RawCheckpoint::read(&weights);
    let norm = "model.layers.1.input_layernorm.weight";
    raw.get_mut(norm).3[..2].copy_from_slice(&[0x00, 0x7e]);
    raw.write(&weights);
    let out = home.path().join("report.html");
    let output =
        mixbit(["report", model.to_str().unwrap(), "--prompt", "Hi", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(norm) && !out.exists(), "{}", stderr(&output));
}
