//! GGUF as an input: models that llama.cpp's own converter made, through every command.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod hostile;

use common::{fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use mixbit::engine::decoder::model::Model;
use mixbit::engine::runtime::Engine;
use mixbit::files::gguf::kind::Kind;
use mixbit::models::source::SourceModel;
use mixbit::numerics::dtype::extend_f32;
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest difference of logits, relative to the largest.
const TOLERANCE: f32 = 1e-4;

fn gguf(name: &str) -> PathBuf {
    fixtures().join("gguf").join(format!("{name}.gguf"))
}

/// Returns the names of the models that are cases of golden/ too.
fn cases() -> Vec<String> {
    let files = fs::read_dir(fixtures().join("gguf")).unwrap().map(|entry| entry.unwrap().path());
    let stems = files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    let mut names: Vec<String> =
        stems.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.retain(|name| fixtures().join("golden").join(name).is_dir());
    names.sort();
    assert!(names.len() >= 24, "{names:?}");
    names
}

fn golden(path: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> { file.tensor(name).unwrap().data().as_chunks().0.to_vec() };
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

fn logits(model: &Path, tokens: &[u32]) -> Vec<f32> {
    let source = SourceModel::open(model).unwrap_or_else(|error| panic!("{}: {error}", model.display()));
    Model::load(&Engine::start().unwrap(), &source, None).unwrap().logits(tokens, None).unwrap()
}

/// Returns the largest difference, relative to the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / scale
}

#[test]
fn converted_architectures_have_the_golden_logits() {
    let mut wrong = Vec::new();
    for name in cases() {
        // Cases that GGUF cannot hold as they are have logits of their own.
        let own = fixtures().join("gguf").join(format!("{name}.safetensors"));
        let of_case = fixtures().join("golden").join(&name).join("golden.safetensors");
        let (tokens, expected) = golden(if own.is_file() { &own } else { &of_case });
        let error = difference(&logits(&gguf(&name), &tokens), &expected);
        if error >= TOLERANCE {
            wrong.push(format!("{name}: {error:e}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn split_files_are_one_model() {
    let (tokens, expected) = golden(&fixtures().join("golden/qwen2-tied/golden.safetensors"));
    for number in 1..=3 {
        let path = gguf(&format!("split-0000{number}-of-00003"));
        assert!(difference(&logits(&path, &tokens), &expected) < TOLERANCE, "{}", path.display());
    }
    let home = tempfile::tempdir().unwrap();
    for number in 1..=3 {
        let path = gguf(&format!("split-0000{number}-of-00003"));
        fs::copy(&path, home.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(difference(&logits(home.path(), &tokens), &expected) < TOLERANCE);
    fs::write(home.path().join("other.gguf"), "").unwrap();
    let output = mixbit(["inspect", home.path().to_str().unwrap()]);
    assert!(stderr(&output).contains("several GGUF models"), "{}", stderr(&output));
    fs::remove_file(home.path().join("other.gguf")).unwrap();
    fs::remove_file(home.path().join("split-00002-of-00003.gguf")).unwrap();
    let output = mixbit(["inspect", home.path().to_str().unwrap()]);
    assert!(stderr(&output).contains("split-00002-of-00003.gguf: is not there"), "{}", stderr(&output));
}

/// Returns the SHA-256 of a layer's values in float32.
fn hash(source: &SourceModel, name: &str) -> String {
    let tensor = source.tensor(name).unwrap();
    let mut values = Vec::new();
    extend_f32(tensor.dtype, &tensor.bytes(), &mut values);
    let mut hash = Sha256::new();
    // Zero has no sign where it is a code times a scale plus a bias.
    for value in values {
        hash.update((value + 0.0).to_le_bytes());
    }
    let bytes = hash.finalize();
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[test]
fn values_of_all_types_are_those_of_the_gguf_package() {
    let expected = json_file(&fixtures().join("gguf/types.json"));
    let whole = SourceModel::open(&gguf("types")).unwrap();
    let kinds: BTreeSet<&str> = whole.incoming().map(|(_, incoming)| incoming.form).collect();
    let known = Kind::ALL.into_iter().filter(|kind| !["F32", "F16", "BF16", "Q8_K"].contains(&kind.name()));
    assert!(known.clone().all(|kind| kinds.contains(kind.name())), "{kinds:?}");
    let decoded = SourceModel::open(&gguf("types")).unwrap().decoded().unwrap();
    for (name, expected) in expected.as_object().unwrap() {
        assert_eq!(hash(&decoded, name), *expected, "{name}");
    }
    let (tokens, expected) = golden(&fixtures().join("gguf/types.safetensors"));
    assert!(difference(&logits(&gguf("types"), &tokens), &expected) < TOLERANCE);
}

#[test]
fn lossless_types_arrive_as_layers_of_mlx() {
    let source = SourceModel::open(&gguf("types")).unwrap();
    for (layer, incoming) in source.incoming() {
        let expected = match incoming.form {
            "Q4_0" | "Q4_1" => Some("4:32"),
            "Q5_0" | "Q5_1" => Some("5:32"),
            "Q8_0" => Some("8:32"),
            "MXFP4" => Some("mxfp4"),
            _ => None,
        };
        let found = source.bitmap().get(layer).map(ToString::to_string);
        assert_eq!(found.as_deref().map(|found| found.trim_start_matches("4:32:")), expected, "{layer}");
    }
    let notes = source.spec().notes.join("\n");
    assert!(notes.contains("in the form Q5_1: taken as 5:32, lossless"), "{notes}");
    assert!(notes.contains("in the form Q4_K, which MLX lacks: decoded"), "{notes}");
}

#[test]
fn every_command_reads_gguf() {
    let home = tempfile::tempdir().unwrap();
    let tokens = [1, 17, 40, 5, 62, 33, 2, 9];
    for name in ["types", "gemma3-text-windows", "qwen3-moe-untied", "gpt2-plain"] {
        let model = gguf(name);
        let path = |kind: &str| home.path().join(format!("{name}-{kind}"));
        let before = logits(&model, &tokens);
        for (kind, command) in [("kept", "convert"), ("decoded", "dequantize")] {
            // Floats have nothing to decode.
            if command == "dequantize" && name != "types" {
                continue;
            }
            succeeded(&make(command, &model, &path(kind), &["--dtype", "float32"]));
            assert!(difference(&logits(&path(kind), &tokens), &before) < 2e-5, "{name} {kind}");
            succeeded(&mixbit(["check", path(kind).to_str().unwrap()]));
        }
        for (kind, more) in
            [("quantized", &["--bits", "6:32"][..]), ("anew", &["--bits", "6:32", "--requantize"])]
        {
            let more = [more, &["--no-eval"]].concat();
            succeeded(&make("quantize", &model, &path(kind), &more));
            assert!(difference(&logits(&path(kind), &tokens), &before) < 0.2, "{name} {kind}");
        }
        let model = model.to_str().unwrap();
        succeeded(&mixbit(["run", "--model", model, "--prompt", "the rain", "--max-tokens", "2"]));
        succeeded(&mixbit(["inspect", model]));
    }
}

#[test]
fn passed_through_layers_stay_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let output = make("quantize", &gguf("types"), &out, &["--bits", "6:32", "--no-eval"]);
    succeeded(&output);
    assert!(stderr(&output).contains("already quantized, passed through"), "{}", stderr(&output));
    let (before, after) = (SourceModel::open(&gguf("types")).unwrap(), SourceModel::open(&out).unwrap());
    assert!(!before.bitmap().is_empty());
    for (layer, quant) in before.bitmap() {
        assert_eq!(after.bitmap().get(layer), Some(quant), "{layer}");
        for part in ["weight", "scales"] {
            let name = format!("{layer}.{part}");
            assert!(before.tensor(&name).unwrap().bytes() == after.tensor(&name).unwrap().bytes(), "{name}");
        }
    }
}

#[test]
fn what_gguf_does_not_say_is_a_note() {
    for (name, window, scale) in [
        (
            "gemma3-text-windows",
            Some("which blocks have windows: taken as llama.cpp takes it, all but one in 6"),
            true,
        ),
        (
            "gemma2-caps",
            Some("which blocks have windows: taken as llama.cpp takes it, all but one in 2"),
            true,
        ),
        ("gemma-tied", None, false),
    ] {
        let notes = SourceModel::open(&gguf(name)).unwrap().spec().notes.join("\n");
        assert_eq!(notes.contains("which blocks have windows"), window.is_some(), "{name}: {notes}");
        assert!(window.is_none_or(|window| notes.contains(window)), "{name}: {notes}");
        let said = notes.contains("what scores are divided by: taken as llama.cpp takes it, the root of 16");
        assert_eq!(said, scale, "{name}: {notes}");
    }
    let source = SourceModel::open(&gguf("smollm3-tied")).unwrap();
    let notes = source.spec().notes.join("\n");
    let expected = "which blocks have no RoPE: taken as llama.cpp takes it, every fourth";
    assert!(notes.contains(expected), "{notes}");
    assert_eq!(source.config().keys()["no_rope_layer_interval"], 4);
}

#[test]
fn blocks_without_full_attention_are_a_note() {
    let said = |name: &Path| {
        let notes = SourceModel::open(name).unwrap().spec().notes.join("\n");
        notes.contains("no block has full attention: mlx-lm looks for it in block 6 of 4")
    };
    assert!(said(&gguf("gemma3-text-windows")));
    assert!(!said(&fixtures().join("golden/gemma3-text-windows")));
}

#[test]
fn targets_are_kept_for_gguf() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let flags = ["--target-bpw", "4.5", "--samples", "4", "--sequence-length", "32", "--requantize"];
    let output = make("quantize", &gguf("types"), &out, &flags);
    succeeded(&output);
    assert!(stdout(&output).contains("KL divergence"), "{}", stdout(&output));
    let record = json_file(&out.join("mixbit-report.json"));
    assert!(record["bpw_quantized"].as_f64().unwrap() <= 4.5, "{record}");
    succeeded(&mixbit(["check", out.to_str().unwrap()]));
    let model = gguf("types");
    let compared = ["eval", "--model", out.to_str().unwrap(), "--reference", model.to_str().unwrap()];
    let output = mixbit([&compared[..], &["--data", "LICENSE-MIT", "--sequence-length", "32"]].concat());
    succeeded(&output);
    assert!(stdout(&output).contains("KL mean"), "{}", stdout(&output));
}

#[test]
fn inspect_shows_the_type_of_each_layer() {
    let model = gguf("types");
    let output = mixbit(["inspect", model.to_str().unwrap(), "--json"]);
    succeeded(&output);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let form = |path: &str| {
        let layers = report["layers"].as_array().unwrap();
        layers.iter().find(|layer| layer["path"] == path).unwrap()["form"].clone()
    };
    assert_eq!(form("model.layers.1.self_attn.v_proj"), "Q4_K");
    assert_eq!(form("model.layers.0.mlp.up_proj"), "MXFP4");
    assert!(form("model.layers.2.mlp.down_proj").is_string());
    assert!(form("model.layers.2.mlp.gate_proj").is_null());
    let output = mixbit(["inspect", model.to_str().unwrap(), "--layers"]);
    assert!(stdout(&output).contains("IQ4_XS"), "{}", stdout(&output));
}

#[test]
fn packing_asks_for_a_folder() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out.mixbit");
    let output = mixbit(["pack", gguf("qwen2-tied").to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("convert it first"), "{}", stderr(&output));
}
