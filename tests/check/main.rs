//! `mixbit check`: every check can fail, the bundled model passes, and folders that nothing else takes get findings too.
#![allow(missing_docs, clippy::unwrap_used)]

mod chained;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/damaged_model.rs"]
#[allow(dead_code, reason = "two test binaries use a part of it each")]
mod damaged_model;
mod structure;
mod tokens;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use chained::{DamagedModel, EMBEDDING, GATE, WEIGHTS, fill, findings};
use common::{bundled, fixtures, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};

#[test]
fn the_bundled_model_passes() {
    let (code, findings) = findings(&bundled(), None);
    assert_eq!(code, 0);
    let mut subjects = BTreeSet::new();
    for finding in &findings {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "subject", "message", "hint"]);
        assert!(["ok", "note"].contains(&finding["level"].as_str().unwrap()), "{finding}");
        assert!(finding["hint"].is_null() || finding["hint"].is_string());
        subjects.insert(finding["subject"].as_str().unwrap().to_owned());
    }
    for subject in [
        "files",
        "tokenizer",
        "mlp",
        "gqa",
        "q/k norm",
        "rope",
        "attention scale",
        "head",
        "shapes",
        "dtypes",
        "bit map",
        "values",
        "magnitudes",
        "rows",
        "outliers",
        "vocabulary",
        "bos",
        "eos",
        "template",
        "forward pass",
    ] {
        assert!(subjects.contains(subject), "{subject} is missing in {subjects:?}");
    }
    let output = mixbit(["check", bundled().to_str().unwrap()]);
    succeeded(&output);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), findings.len());
    assert!(text.lines().all(|line| line.starts_with("ok  ") || line.starts_with("note  ")), "{text}");
    assert!(stderr(&output).is_empty());
}

#[test]
fn golden_models_have_no_problems() {
    for case in common::golden_cases().into_iter().filter(|case| case.join("config.json").is_file()) {
        let (code, findings) = findings(&case, None);
        assert_eq!(code, 0, "{}: {findings:#?}", case.display());
    }
}

#[test]
fn what_is_no_folder_is_an_error() {
    for path in ["no/such/folder", "Cargo.toml"] {
        let output = mixbit(["check", path]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).is_empty() && stderr(&output).contains("hint: "), "{}", stderr(&output));
    }
}

#[test]
fn files() {
    let damaged = DamagedModel::new();
    let bytes = fs::read(damaged.file(WEIGHTS)).unwrap();
    fs::write(damaged.file(WEIGHTS), &bytes[..bytes.len() - 1]).unwrap();
    damaged.finds("problem", "files", "not a whole safetensors file").finds("ok", "eos", "<|eot_id|>");
    let damaged = DamagedModel::new();
    fs::rename(damaged.file(WEIGHTS), damaged.file("model-00001-of-00002.safetensors")).unwrap();
    damaged.finds("problem", "files", "promise 2 files, 1 are there");
    DamagedModel::new().text("pytorch_model.bin", "").finds("note", "files", "not read: `pytorch_model.bin`");
    DamagedModel::new().text("generation_config.json", "{").finds("note", "files", "generation_config.json");
    DamagedModel::new().text("tokenizer.json", "{}").finds("problem", "tokenizer", "tokenizer.json");
    let damaged = DamagedModel::of(&fixtures().join("golden/llama-sharded-inv-freq"));
    let wrong = |index: &mut Value| index["metadata"]["total_size"] = json!(17);
    damaged.json("model.safetensors.index.json", wrong).finds("note", "files", "says total_size 17");
}

#[test]
fn an_index_that_names_too_much_does_not_end_the_check() {
    let index = |change: fn(&mut Value)| {
        let damaged = DamagedModel::of(&fixtures().join("golden/llama-sharded-inv-freq"));
        damaged.json("model.safetensors.index.json", change)
    };
    let damaged = index(|index| {
        let shard = index["weight_map"].as_object().unwrap().values().next().unwrap().clone();
        index["weight_map"]["model.layers.0.surprise"] = shard;
    });
    damaged
        .finds("problem", "files", "tensor `model.layers.0.surprise`: is said to be in")
        .finds("ok", "shapes", "all as config.json says")
        .finds("ok", "values", "all finite")
        .finds("ok", "forward pass", "finite logits");
    index(|index| index["weight_map"]["vision_tower.surprise"] = json!("gone.safetensors"))
        .finds("note", "decided", "does not belong to these weights (it names `gone.safetensors`")
        .finds("ok", "shapes", "all as config.json says");
    let damaged = index(|index| index["weight_map"]["model.layers.0.surprise"] = json!("gone.safetensors"));
    damaged.finds("problem", "files", "names the shard `gone.safetensors`").finds(
        "ok",
        "values",
        "all finite",
    );
    // Whatever it says of where tensors are, they are there.
    index(|index| index["weight_map"]["model.norm.weight"] = json!("gone.safetensors"))
        .finds("note", "decided", "does not belong to these weights (it names `gone.safetensors`")
        .finds("ok", "shapes", "all as config.json says");
    let broken = DamagedModel::of(&fixtures().join("golden/llama-sharded-inv-freq"));
    broken.text("model.safetensors.index.json", "{").finds(
        "note",
        "decided",
        "cannot be read (not valid JSON",
    );
}

#[test]
fn records_that_cannot_be_read() {
    let name = "mixbit-report.json";
    for garbage in ["", "{\"version\": 1, \"mix", "[]", "{}", "{\"version\": 1}"] {
        DamagedModel::new().text(name, garbage).finds("problem", "files", name);
    }
    DamagedModel::new().text(name, "{\"version\": 7}").finds("note", "files", name);
}

#[test]
fn absurd_values() {
    let filled = |name: &'static str, value: fn(usize) -> Option<f32>| {
        DamagedModel::new().weights(|raw| fill(raw, name, value))
    };
    filled(GATE, |i| (i == 5).then_some(1e30)).finds(
        "problem",
        "magnitudes",
        &format!("`{GATE}` reaches 1.0e30"),
    );
    filled(GATE, |i| (i == 5).then_some(900.0)).finds(
        "note",
        "magnitudes",
        &format!("`{GATE}` reaches 9.0e2"),
    );
    let norm = "model.norm.weight";
    filled(norm, |i| (i == 5).then_some(1e9)).finds(
        "problem",
        "magnitudes",
        &format!("`{norm}` reaches 1.0e9"),
    );
    filled(norm, |i| (i == 5).then_some(900.0)).finds("ok", "magnitudes", "nothing in 38 tensors");
    // Scaled as a whole, where every value is like the others.
    let scaled = |name: &'static str, factor: f32| {
        DamagedModel::new().weights(|raw| {
            for value in raw.get_mut(name).3.chunks_exact_mut(4) {
                let scaled = f32::from_le_bytes([value[0], value[1], value[2], value[3]]) * factor;
                value.copy_from_slice(&scaled.to_le_bytes());
            }
        })
    };
    scaled(GATE, 100.0).finds("note", "magnitudes", "the median of the same in other blocks");
    scaled(GATE, 1000.0).finds("problem", "magnitudes", "the median of the same in other blocks");
    scaled(norm, 1e5).finds("problem", "magnitudes", &format!("`{norm}` is a norm of ")).finds(
        "note",
        "forward pass",
        "very large",
    );
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("quantize", &bundled(), &out, &["--bits", "4", "--dtype", "bfloat16"]));
    let layer = "model.layers.1.feed_forward.gate_proj";
    let parts = [format!("{layer}.scales"), format!("{layer}.biases")];
    let quantized = |change: &dyn Fn(&str, &mut Vec<u8>)| {
        DamagedModel::of(&out)
            .weights(|raw| parts.iter().for_each(|part| change(part, &mut raw.get_mut(part).3)))
    };
    // 1e30 in bfloat16, and all scaled by 2^20.
    let one = |part: &str| {
        quantized(&|name, bytes| {
            if name.ends_with(part) {
                bytes[..2].copy_from_slice(&[0x4a, 0x71]);
            }
        })
    };
    one("scales").finds("problem", "magnitudes", &format!("`{layer}.scales` reaches 1"));
    one("biases").finds("problem", "magnitudes", &format!("`{layer}.biases` reaches 1.0e30"));
    let all = quantized(&|_, bytes| {
        for value in bytes.chunks_exact_mut(2) {
            let bits = u16::from_le_bytes([value[0], value[1]]);
            let larger = if bits.trailing_zeros() >= 15 { bits } else { bits + (20 << 7) };
            value.copy_from_slice(&larger.to_le_bytes());
        }
    });
    all.finds("problem", "magnitudes", "times the median of the same in other blocks");
    DamagedModel::of(&out).finds("ok", "magnitudes", "nothing in 38 tensors").finds(
        "ok",
        "outliers",
        "of the quantized linear layers' weights",
    );
}

#[test]
fn a_flipped_bit_in_an_npz() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("convert", &bundled(), &out, &["--format", "npz"]));
    let damaged = DamagedModel::of(&out).finds("ok", "files", "1 weight file");
    let mut bytes = fs::read(damaged.file("weights.npz")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(damaged.file("weights.npz"), bytes).unwrap();
    damaged.finds("problem", "files", "CRC-32");
}

#[test]
fn folders_that_cannot_be_opened_still_get_findings() {
    DamagedModel::new()
        .config("model_type", json!("gpt9"))
        .finds("problem", "config", "`gpt9` is not supported")
        .finds("ok", "values", "all finite")
        .finds("ok", "eos", "<|eot_id|>");
    let damaged = DamagedModel::new();
    fs::remove_file(damaged.file("config.json")).unwrap();
    damaged.finds("problem", "config", "config.json").finds("ok", "vocabulary", "1024 rows");
    let damaged = DamagedModel::new();
    fs::remove_file(damaged.file(WEIGHTS)).unwrap();
    damaged.finds("problem", "files", "no weights").finds("ok", "rope", "in every block");
    DamagedModel::new()
        .config("hidden_act", json!("gelu"))
        .finds("problem", "config", "`gelu`")
        .finds("ok", "gqa", "4 to 1");
}

#[test]
fn values() {
    DamagedModel::new()
        .weights(|raw| fill(raw, GATE, |i| (i < 2).then_some(f32::NAN)))
        .finds("problem", "values", &format!("`{GATE}` (2)"))
        .finds("problem", "forward pass", "NaN or infinite");
    let filled =
        |name, value: fn(usize) -> Option<f32>| DamagedModel::new().weights(|raw| fill(raw, name, value));
    filled(GATE, |_| Some(0.0)).finds("problem", "rows", "nothing but zeros");
    filled(GATE, |_| Some(0.5)).finds("problem", "rows", "nothing but zeros or constant rows in 1 tensor");
    filled("model.norm.weight", |_| Some(0.0)).finds("problem", "rows", "`model.norm.weight`");
    filled("model.norm.weight", |_| Some(1.0)).finds("note", "rows", "one value throughout in 1 tensor");
    filled(GATE, |i| (i < 256).then_some(0.0)).finds(
        "note",
        "rows",
        &format!("all-zero rows in 1 tensor: `{GATE}` (2 of 384)"),
    );
    filled(EMBEDDING, |i| (i < 128).then_some(2.0)).finds("note", "rows", "constant rows in 1 tensor");
    // One value in every second group of one layer, which has a fifteenth of the linear weights.
    filled(GATE, |i| i.is_multiple_of(128).then_some(9.0)).finds(
        "note",
        "outliers",
        &format!("50.000% of `{GATE}`"),
    );
}

#[test]
fn without_an_engine_the_forward_pass_is_left_out() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    let output =
        command.arg("check").arg(bundled()).env("MIXBIT_ENGINE_DIR", "/nonexistent").output().unwrap();
    if cfg!(target_os = "linux") {
        succeeded(&output);
        assert!(stdout(&output).contains("note     forward pass: engine: "), "{}", stdout(&output));
    }
}

#[test]
fn references() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make(
        "quantize",
        &bundled(),
        &out,
        &["--bits", "4", "--layer", "*.v_proj=8:32", "--layer", "*.o_proj=float"],
    ));
    let (original, bundled) = (Some(bundled()), bundled());
    let beside = original.as_deref();
    DamagedModel::of(&out)
        .finds_beside(beside, "ok", "reference shapes", "885888 parameters")
        .finds_beside(beside, "ok", "reference config", "the same decoder")
        .finds_beside(beside, "ok", "reference values", "14 float tensors, relative RMS difference")
        .finds_beside(beside, "ok", "reference values", "20 layers at 4 bits, relative RMS rounding error")
        .finds_beside(beside, "ok", "reference values", "4 layers at 8 bits, relative RMS rounding error")
        .finds_beside(beside, "ok", "reference tokenizer", "the same")
        .weights(|raw| raw.get_mut("model.layers.0.self_attn.q_proj.weight").3.fill(0x5a))
        .finds_beside(beside, "problem", "reference values", "1 of 20 layers at 4 bits are no rounding")
        .config("rope_theta", json!(7))
        .finds_beside(beside, "problem", "reference config", "RoPE differ")
        .config("eos_token_id", json!([1, 4]))
        .json("tokenizer.json", |tokenizer| tokenizer["post_processor"] = Value::Null)
        .finds_beside(beside, "problem", "reference tokenizer", "gives other ids");
    DamagedModel::new()
        .finds_beside(beside, "ok", "reference values", "38 float tensors, all equal")
        .weights(|raw| fill(raw, GATE, |i| (i < 64).then_some(0.25)))
        .finds_beside(
            beside,
            "problem",
            "reference values",
            &format!("1 of 38 float tensors differ by more than rounding: `{GATE}`"),
        );
    let other = fixtures().join("golden/llama4-text-tied");
    DamagedModel::of(&other).finds_beside(beside, "problem", "reference shapes", "of another shape");
    DamagedModel::new().config("model_type", json!("x")).finds_beside(
        beside,
        "note",
        "reference",
        "not compared",
    );
    let (code, findings) = findings(&bundled, Some(home.path()));
    assert_eq!(code, 1);
    assert!(findings.iter().any(|f| f["level"] == "problem" && f["subject"] == "reference"), "{findings:#?}");
}
