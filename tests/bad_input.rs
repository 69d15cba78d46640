//! Damaged and contradictory input: one clear error, a hint, a non-zero exit, nothing left behind.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/damaged_model.rs"]
#[allow(dead_code, reason = "two test binaries use a part of it each")]
mod damaged_model;

use std::fs;
use std::path::Path;

use common::{RawCheckpoint, bundled, make, mixbit, stderr, succeeded};
use damaged_model::{DamagedModel, GATE, WEIGHTS};
use serde_json::{Value, json};

impl DamagedModel {
    /// Converts, which must fail with all of `expected` in the message, a hint, and nothing left.
    #[track_caller]
    fn refused(&self, expected: &[&str]) {
        let model = self.home().join("model");
        let out = self.home().join("out");
        let output =
            mixbit([Path::new("convert"), "--hf-path".as_ref(), &model, "--mlx-path".as_ref(), &out]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in expected {
            assert!(text.contains(part), "expected `{part}` in:\n{text}");
        }
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
        assert!(text.contains("hint: "), "{text}");
        assert_eq!(fs::read_dir(self.home()).unwrap().count(), 1, "something was left behind");
    }
}

#[test]
fn truncated_weights() {
    let damaged = DamagedModel::new();
    let bytes = fs::read(damaged.file(WEIGHTS)).unwrap();
    for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(damaged.file(WEIGHTS), &bytes[..length]).unwrap();
        damaged.refused(&[WEIGHTS]);
    }
}

#[test]
fn header_longer_than_the_file() {
    let damaged = DamagedModel::new();
    let mut bytes = fs::read(damaged.file(WEIGHTS)).unwrap();
    for length in [bytes.len() as u64, u64::MAX, 1 << 40] {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(damaged.file(WEIGHTS), &bytes).unwrap();
        damaged.refused(&[WEIGHTS, "header claims"]);
    }
}

#[test]
fn offsets_that_overlap_or_leave_the_file() {
    for (offsets, expected) in [
        (json!([0, 196_608]), "begins at byte 0 of the data, and what comes before ends at "),
        (json!([1_000_000_000, 1_000_196_608]), "offsets 1000000000..1000196608 are not within the data of "),
        (json!([196_608, 0]), "offsets 196608..0 are not within the data of "),
        (json!([0, 4]), "shape [384, 128] in F32 takes 196608 bytes, its offsets 0..4 give 4"),
    ] {
        let damaged = DamagedModel::new();
        damaged.edit_header(|header| header[GATE]["data_offsets"] = offsets.clone());
        damaged.refused(&[WEIGHTS, "tensor `model.", "not a whole safetensors file", expected]);
    }
    for (key, value, expected) in [
        ("shape", json!([384, 127]), "shape [384, 127] in F32 takes 195072 bytes"),
        ("shape", json!([u64::MAX, u64::MAX]), "takes too many bytes"),
        ("dtype", json!("F16"), "shape [384, 128] in F16 takes 98304 bytes"),
        ("dtype", json!("F17"), "its entry in the header cannot be read: \"F17\" is no dtype of safetensors"),
        ("shape", json!([-1]), "its entry in the header cannot be read: "),
    ] {
        let damaged = DamagedModel::new();
        damaged.edit_header(|header| header[GATE][key] = value.clone());
        damaged.refused(&[GATE, "not a whole safetensors file", expected]);
    }
}

#[test]
fn header_that_is_no_json() {
    let damaged = DamagedModel::new();
    let mut bytes = fs::read(damaged.file(WEIGHTS)).unwrap();
    bytes[8..12].copy_from_slice(b"oops");
    fs::write(damaged.file(WEIGHTS), &bytes).unwrap();
    damaged.refused(&[WEIGHTS, "not a whole safetensors file: its header is not valid JSON"]);
}

#[test]
fn index_that_names_what_is_not_there() {
    let index = |damaged: &DamagedModel, name: &str, file: &str| {
        let raw = RawCheckpoint::read(&damaged.file(WEIGHTS));
        let mut map: serde_json::Map<String, Value> =
            raw.tensors.iter().map(|tensor| (tensor.0.clone(), json!(WEIGHTS))).collect();
        map.insert(name.to_owned(), json!(file));
        fs::write(damaged.file("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
            .unwrap();
    };
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| raw.remove(GATE));
    index(&damaged, GATE, "model-00002-of-00002.safetensors");
    damaged.refused(&["model-00002-of-00002.safetensors", "not there"]);
    index(&damaged, GATE, WEIGHTS);
    damaged.refused(&[GATE, "is said to be in `model.safetensors`, and is in none"]);
    index(&damaged, GATE, "../model/model.safetensors");
    damaged.refused(&[GATE, "outside the folder"]);
    index(&damaged, GATE, "/etc/hostname");
    damaged.refused(&[GATE, "outside the folder"]);
}

#[test]
fn shards_without_an_index_must_be_all_there() {
    let damaged = DamagedModel::new();
    fs::rename(damaged.file(WEIGHTS), damaged.file("model-00001-of-00002.safetensors")).unwrap();
    damaged.refused(&["promise 2 files, 1 are there"]);
}

#[test]
fn missing_extra_and_misshapen_tensors() {
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| raw.remove(GATE));
    damaged.refused(&[GATE, "missing"]);
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| raw.tensors.push(("surprise".into(), "F32".into(), vec![1], vec![0; 4])));
    damaged.refused(&["`surprise`", "not part of this architecture"]);
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| raw.get_mut(GATE).2 = vec![128, 384]);
    damaged.refused(&[GATE, "shape [128, 384], expected [384, 128]"]);
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| {
        let data = &mut raw.get_mut(GATE).3;
        data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        data[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    let (model, out) = (damaged.file(""), damaged.home().join("out"));
    let output =
        mixbit(["convert", "--hf-path", model.to_str().unwrap(), "--mlx-path", out.to_str().unwrap()]);
    succeeded(&output);
    assert!(
        stderr(&output).contains(&format!("warning: tensor `{GATE}` has 2 values that are NaN or infinite")),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("warning: such values were written as they are"));
    let quantized = damaged.home().join("quantized");
    for rounding in ["rtn", "search", "gptq"] {
        for model in [&model, &out] {
            let output = make("quantize", model, &quantized, &["--bits", "4", "--rounding", rounding]);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{rounding}: {text}");
            assert!(text.contains(&format!("tensor `{GATE}`")) && text.contains("damaged"), "{text}");
            assert!(!quantized.exists());
        }
    }
}

#[test]
fn configs_that_cannot_be_honoured() {
    let damaged = DamagedModel::new();
    fs::write(damaged.file("config.json"), "{ \"model_type\": ").unwrap();
    damaged.refused(&["config.json", "not valid JSON"]);
    for (key, value, expected) in [
        ("model_type", json!("gpt9"), "`gpt9` is not supported"),
        ("model_type", json!("lama"), "hint: did you mean `llama`?"),
        ("model_type", json!("Qwen3Moe"), "hint: did you mean `qwen3_moe`?"),
        ("model_type", Value::Null, "model_type"),
        ("hidden_size", json!(-128), "expected an integer"),
        ("vocab_size", json!(1e30), "expected an integer"),
        ("num_attention_heads", json!(0), "expected an integer"),
        ("hidden_act", json!("gelu"), "`gelu` is not supported"),
        (
            "rope_scaling",
            json!({"rope_type": "mrope", "mrope_section": [2, 3, 3]}),
            "`mrope` is not supported",
        ),
        (
            "rope_scaling",
            json!({"rope_type": "longrope", "factor": 2.0}),
            "`rope_scaling.short_factor`: missing",
        ),
        ("no_rope_layers", json!([1, 1]), "2 entries for 4 layers"),
        ("num_key_value_heads", json!(3), "does not divide"),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "group_size`: expected a number"),
        (
            "quantization_config",
            json!({"quant_method": "vptq", "bits": 4}),
            "\"vptq\", whose form is not read",
        ),
        (
            "quantization",
            json!({"bits": 4, "group_size": 64, "model.layers.0.self_attn.q_proj": {"bits": 4, "group_size": 64}}),
            "scales",
        ),
    ] {
        let damaged = DamagedModel::new();
        damaged.edit_json("config.json", |config| config[key] = value.clone());
        let model = damaged.file("");
        let output = mixbit(["inspect", model.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{key} {value}: {}", stderr(&output));
    }
}

#[test]
fn pickles_and_folders_without_weights_or_tokenizer() {
    let damaged = DamagedModel::new();
    fs::rename(damaged.file(WEIGHTS), damaged.file("pytorch_model.bin")).unwrap();
    damaged.refused(&["pytorch_model.bin: is no ZIP", "save it again"]);
    let damaged = DamagedModel::new();
    fs::remove_file(damaged.file("tokenizer.json")).unwrap();
    fs::remove_file(damaged.file("tokenizer_config.json")).unwrap();
    fs::remove_file(damaged.file("chat_template.jinja")).unwrap();
    damaged.refused(&["no tokenizer"]);
    let output = mixbit(["inspect", "no/such/folder"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the model folder does not exist"), "{}", stderr(&output));
}

#[test]
fn output_and_input_must_be_apart() {
    let damaged = DamagedModel::new();
    let model = damaged.file("");
    let model = model.to_str().unwrap();
    let around = damaged.home().to_str().unwrap().to_owned();
    for (out, code) in [(model.to_owned(), 2), (format!("{model}/out"), 2), (around, 2)] {
        let output = mixbit(["convert", "--hf-path", model, "--mlx-path", &out, "--overwrite"]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(damaged.file(WEIGHTS).is_file() && !damaged.file("out").exists());
    }
}

#[test]
fn targets_out_of_range_say_what_is_reachable() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    for target in ["1.5", "17"] {
        let target = format!("--target-bpw={target}");
        let output = make("quantize", &bundled(), &out, &[&target]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains("from 2.250 to 16.000"), "{text}");
        assert!(text.contains("hint: the nearest is"), "{text}");
        assert!(!out.exists());
    }
}

#[test]
fn calibration_texts_that_do_not_do() {
    let home = tempfile::tempdir().unwrap();
    let npz = |dtype, array: &[u8]| {
        let path = home.path().join("made.npz");
        let mut npz = mixbit::formats::npz::NpzWriter::create(&path).unwrap();
        npz.add("tokens", dtype, &[array.len() / 4], array).unwrap();
        npz.finish().unwrap();
        fs::read(path).unwrap()
    };
    let ids: Vec<u8> = [7, 5000].repeat(64 * 512).into_iter().flat_map(i32::to_le_bytes).collect();
    for (name, contents, expected) in [
        ("a.txt", b"short".to_vec(), "sequences of 512 need 37304"),
        ("a.txt", b"a\xff\x00".to_vec(), "is binary data, not UTF-8 text: byte 1 is 0xff"),
        ("a.txt", b"\xff\xfe\x00".to_vec(), "is UTF-16 text, expected UTF-8"),
        ("a.txt", b" \n".to_vec(), "is empty"),
        ("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": 1}\n".to_vec(), "key `text`: line 2: expected a string"),
        ("a.jsonl", b"\n{\"text\"\n".to_vec(), "line 2: not valid JSON"),
        ("a.npz", npz(mixbit::numerics::dtype::Dtype::F32, &[0; 8]), "expected integers"),
        ("a.npz", npz(mixbit::numerics::dtype::Dtype::I32, &ids), "a.npz: has token id 5000"),
        ("a.npz", npz(mixbit::numerics::dtype::Dtype::I32, &[0xff; 8]), "value -1 at 0 is no token id"),
    ] {
        let file = home.path().join(name);
        fs::write(&file, contents).unwrap();
        let more = ["--target-bpw", "4.5", "--calibration", file.to_str().unwrap()];
        let output = make("quantize", &bundled(), &home.path().join("out"), &more);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
        assert!(!home.path().join("out").exists());
    }
}

/// Templates that write little and take few steps, but much memory.
#[test]
fn templates_that_fill_the_memory_are_ended() {
    let damaged = DamagedModel::new();
    let model = damaged.file("");
    for template in [
        "{% set x = namespace(s='a') %}{% for i in range(30) %}{% set x.s = x.s ~ x.s %}{% endfor %}{{ x.s|length }}",
        "{% set x = namespace(s='a') %}{% for i in range(30) %}{% set x.s = x.s + x.s %}{% endfor %}{{ x.s|length }}",
        "{% set x = 'a' * 50000000 %}{% set y = [x] * 20 %}{{ y|join|length }}",
        "{% set x = 'a' * 50000000 %}{% set y %}{% for i in range(20) %}{{ x }}{% endfor %}{% endset %}{{ y|length }}",
        "{% macro f(s, n) %}{% if n %}{{ f(s ~ s, n - 1) }}{% else %}{{ s|length }}{% endif %}{% endmacro %}{{ f('a', 30) }}",
        "{{ ('a' * 90000000)|replace('a', 'aaaaaaaa')|length }}",
    ] {
        fs::write(damaged.file("chat_template.jinja"), template).unwrap();
        let output =
            mixbit(["run", "--model", model.to_str().unwrap(), "--prompt", "Hi", "--max-tokens", "1"]);
        assert_eq!(output.status.code(), Some(1), "{template}: {}", stderr(&output));
        let text = stderr(&output);
        let limits =
            ["makes more than 536870912 bytes of values altogether", "writes more than 67108864 bytes"];
        let said = |limit: &&str| text.contains(&format!("chat_template.jinja: chat template: {limit}"));
        assert!(limits.iter().any(said), "{text}");
    }
}

#[test]
fn conversations_need_a_chat_template() {
    let damaged = DamagedModel::new();
    fs::remove_file(damaged.file("chat_template.jinja")).unwrap();
    let file = damaged.home().join("chat.jsonl");
    fs::write(&file, r#"{"messages": [{"role": "user", "content": "Hi"}]}"#).unwrap();
    let more = ["--target-bpw", "4.5", "--calibration", file.to_str().unwrap()];
    let output = make("quantize", &damaged.file(""), &damaged.home().join("out"), &more);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("line 1: this model has no chat template"), "{}", stderr(&output));
}

#[test]
fn damaged_tokenizers_are_found_at_conversion() {
    let damaged = DamagedModel::new();
    fs::write(damaged.file("tokenizer.json"), "{}").unwrap();
    damaged.refused(&["tokenizer.json"]);
    let damaged = DamagedModel::new();
    damaged.edit_json("config.json", |config| config["eos_token_id"] = json!(-1));
    damaged.refused(&["eos_token_id"]);
}

#[test]
fn weights_that_are_no_numbers_stop_what_needs_them() {
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| raw.get_mut(GATE).3[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    let (model, out) = (damaged.file(""), damaged.home().join("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    for arguments in [
        &["run", "--model", model, "--prompt", "x"][..],
        &["quantize", "--hf-path", model, "--mlx-path", out, "--target-bpw", "4.5"],
        &[
            "quantize",
            "--hf-path",
            model,
            "--mlx-path",
            out,
            "--bits",
            "4",
            "--layer",
            "*.1.*.gate_proj=float",
        ],
    ] {
        let output = mixbit(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(!Path::new(out).exists());
        assert!(stderr(&output).contains(GATE), "{}", stderr(&output));
    }
}

#[test]
fn big_endian_arrays_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x.npz");
    let mut npz = mixbit::formats::npz::NpzWriter::create(&path).unwrap();
    npz.add("a", mixbit::numerics::dtype::Dtype::F32, &[2], &[0; 8]).unwrap();
    npz.finish().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|w| w == b"<f4").unwrap();
    bytes[at] = b'>';
    fs::write(&path, bytes).unwrap();
    let error = mixbit::formats::checkpoint::Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains(">f4"), "{error}");
}

#[test]
fn changed_bytes_in_an_npz_are_found() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    succeeded(&make("convert", &bundled(), &model, &["--format", "npz"]));
    let path = model.join("weights.npz");
    let mut bytes = fs::read(&path).unwrap();
    let tensor = mixbit::formats::checkpoint::Checkpoint::open(&path).unwrap();
    let data = tensor.get(GATE).unwrap().bytes();
    let at = bytes.windows(data.len()).position(|w| w == &*data).unwrap() + 1000;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let out = home.path().join("out");
    let (model, to) = (model.to_str().unwrap(), out.to_str().unwrap());
    for arguments in [
        &["convert", "--hf-path", model, "--mlx-path", to][..],
        &["quantize", "--hf-path", model, "--mlx-path", to, "--bits", "4"],
        &["run", "--model", model, "--prompt", "x"],
    ] {
        let output = mixbit(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(GATE) && text.contains("CRC-32") && text.contains("hint: "), "{text}");
        assert!(!out.exists());
    }
}

#[test]
fn a_name_that_a_header_has_twice_is_named() {
    let damaged = DamagedModel::new();
    let raw = RawCheckpoint::read(&damaged.file(WEIGHTS));
    let header = serde_json::to_string(&raw.header()).unwrap();
    let entry = raw.header()[GATE].to_string();
    let header = format!("{},\"{GATE}\":{entry}}}", header.strip_suffix('}').unwrap());
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    raw.tensors.iter().for_each(|tensor| bytes.extend(&tensor.3));
    fs::write(damaged.file(WEIGHTS), bytes).unwrap();
    damaged.refused(&[WEIGHTS, GATE, "in the header twice"]);
}

#[test]
fn candidates_that_no_layer_can_take_are_named() {
    let home = tempfile::tempdir().unwrap();
    let model = common::fixtures().join("golden/llama-rows-172");
    let out = home.path().join("out");
    let output = make("quantize", &model, &out, &["--target-bpw", "8", "--candidates", "4:128,8:128,keep"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in
        ["4:128, 8:128, keep", "model.layers.0.", "rows of ", "groups of 64 divide the rows of 12 layers"]
    {
        assert!(text.contains(part), "{text}");
    }
    let clipped = common::fixtures().join("golden/dbrx-clipped");
    for (flags, candidates) in [(["--bits", "3"], "3:64"), (["--recipe", "uniform-4bit"], "4:64")] {
        let text = stderr(&make("quantize", &clipped, &out, &flags));
        let candidates = format!("candidates {candidates}: `");
        for part in [candidates.as_str(), "rows of 32", "choose bits with such groups, as 4:32"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

/// Files that could be waited on for ever are not opened.
#[cfg(unix)]
#[test]
fn fifos_in_a_model_folder() {
    for (name, reported) in [("pipe", true), ("README.md", true), ("config.json", false), (WEIGHTS, false)] {
        let damaged = DamagedModel::new();
        let _ = fs::remove_file(damaged.file(name));
        let made = std::process::Command::new("mkfifo").arg(damaged.file(name)).status();
        assert!(made.unwrap().success());
        let (model, home) = (damaged.file(""), damaged.home());
        let (pack, page) = (home.join("x.mlxpack"), home.join("report.html"));
        let run = |command: &str, out: &Path| mixbit([Path::new(command), &model, "--out".as_ref(), out]);
        let output = run("pack", &pack);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let expected = if name == WEIGHTS { "no weights" } else { "is no regular file" };
        assert!(stderr(&output).contains(expected) && !pack.exists(), "{name}: {}", stderr(&output));
        let output = run("report", &page);
        assert_eq!(output.status.success(), reported, "{name}: {}", stderr(&output));
    }
}

#[test]
fn weight_files_are_no_models() {
    let damaged = DamagedModel::new();
    let file = damaged.file(WEIGHTS);
    let npz = damaged.home().join("npz");
    succeeded(&make("convert", &bundled(), &npz, &["--format", "npz"]));
    for (path, folder) in [(&file, damaged.home().join("model")), (&npz.join("weights.npz"), npz.clone())] {
        for arguments in [&["run", "--prompt", "x", "--model"][..], &["pack", "--out", "x.mlxpack"]] {
            let output = mixbit([arguments, &[path.to_str().unwrap()]].concat());
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            let hint = format!("config.json, {}", folder.display());
            assert!(text.contains("is a weight file, and no whole model") && text.contains(&hint), "{text}");
        }
    }
    fs::remove_dir_all(&npz).unwrap();
    fs::write(&file, "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n").unwrap();
    damaged.refused(&["model.safetensors: is a Git LFS pointer", "git lfs pull"]);
}

#[test]
fn other_tools_dtypes_are_named_with_their_method() {
    let damaged = DamagedModel::new();
    damaged.edit_weights(|raw| {
        for (name, dtype, shape, data) in &mut raw.tensors {
            if name.contains("self_attn") {
                "F8_E4M3".clone_into(dtype);
                data.truncate(shape.iter().product());
            }
        }
    });
    let first = "tensor `model.layers.0.self_attn.k_proj.weight`: dtype F8_E4M3 is not supported";
    (0..5).for_each(|_| damaged.refused(&[first]));
    damaged.edit_json("config.json", |config| config["quantization_config"] = json!({"quant_method": "fp8"}));
    damaged.refused(&["k_proj.weight`: is float8_e4m3 without", "weight_scale_inv"]);
    damaged.edit_json("config.json", |config| config["quantization_config"] = json!({"quant_method": "hqq"}));
    damaged.refused(&["key `quantization_config`: the checkpoint is quantized by \"hqq\"", "float"]);
}
