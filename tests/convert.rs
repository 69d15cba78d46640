//! `mixbit convert` as a user runs it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{
    RawCheckpoint, bundled, copy_folder, fixtures, golden_cases, interrupted_after, json_file, make, mixbit,
    stderr, stdout, succeeded,
};
use half::f16;
use serde_json::json;
use std::fs;
use std::path::Path;

use mixbit::engine::decoder::model::Model;
use mixbit::engine::runtime::Engine;
use mixbit::models::source::SourceModel;

fn convert(from: &Path, to: &Path, more: &[&str]) -> std::process::Output {
    make("convert", from, to, more)
}

#[test]
fn the_bundled_model_becomes_float16_value_by_value() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&convert(&bundled(), &out, &["--dtype", "float16"]));
    let before = RawCheckpoint::read(&bundled().join("model.safetensors"));
    let after = RawCheckpoint::read(&out.join("model.safetensors"));
    assert_eq!(before.tensors.len(), after.tensors.len());
    for (old, new) in before.tensors.iter().zip(&after.tensors) {
        assert_eq!((&old.0, &old.2, new.1.as_str()), (&new.0, &new.2, "F16"));
        let expected: Vec<u8> = old
            .3
            .as_chunks()
            .0
            .iter()
            .flat_map(|b| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes())
            .collect();
        assert!(new.3 == expected, "{}", old.0);
    }
    let config = json_file(&out.join("config.json"));
    assert_eq!(config["torch_dtype"], "float16");
    for (key, value) in json_file(&bundled().join("config.json")).as_object().unwrap() {
        assert!(key == "torch_dtype" || config[key] == *value, "{key}");
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        assert_eq!(fs::read(bundled().join(name)).unwrap(), fs::read(out.join(name)).unwrap(), "{name}");
    }
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("library_name: mlx") && card.contains("base_model: mobilellm-docs-1m"), "{card}");
    let header = fs::read(out.join("model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header[8..100]).contains(r#""format":"mlx""#));
    let index = json_file(&out.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"], json!({"total_size": 1_771_776, "total_parameters": 885_888}));
}

#[test]
fn same_input_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let names = ["a", "b"].map(|name| home.path().join(name));
    for name in &names {
        succeeded(&convert(&bundled(), name, &["--dtype", "bfloat16"]));
    }
    for entry in fs::read_dir(&names[0]).unwrap() {
        let file = entry.unwrap().file_name();
        assert!(
            fs::read(names[0].join(&file)).unwrap() == fs::read(names[1].join(&file)).unwrap(),
            "{file:?}"
        );
    }
}

#[test]
fn the_default_dtype_is_the_checkpoints_own() {
    let home = tempfile::tempdir().unwrap();
    for (case, dtype) in
        [("qwen3-tied", "BF16"), ("mistral-untied-float16", "F16"), ("llama-yarn-rope", "F32")]
    {
        let out = home.path().join(case);
        succeeded(&convert(&fixtures().join("golden").join(case), &out, &[]));
        let tensors = RawCheckpoint::read(&out.join("model.safetensors")).tensors;
        assert!(tensors.iter().all(|tensor| tensor.1 == dtype), "{case}");
    }
}

#[test]
fn shards_and_npz_hold_the_same_model() {
    let home = tempfile::tempdir().unwrap();
    let (one, many, npz) = (home.path().join("one"), home.path().join("many"), home.path().join("npz"));
    for dtype in ["float32", "bfloat16"] {
        succeeded(&convert(&bundled(), &one, &["--dtype", dtype, "--overwrite"]));
        succeeded(&convert(
            &bundled(),
            &many,
            &["--dtype", dtype, "--max-shard-size", "500KB", "--overwrite"],
        ));
        succeeded(&convert(&bundled(), &npz, &["--dtype", dtype, "--format", "npz", "--overwrite"]));
        assert!(many.join("model-00002-of-00004.safetensors").is_file() || dtype == "float32");
        assert!(!npz.join("model.safetensors").exists() && npz.join("weights.npz").is_file());
        let models = [&one, &many, &npz].map(|path| SourceModel::open(path).unwrap());
        for tensor in models[0].tensors() {
            for other in &models[1..] {
                let found = other.tensor(tensor.name).unwrap();
                assert_eq!(found.shape, tensor.tensor.shape);
                assert!(found.bytes() == tensor.tensor.bytes(), "{}", tensor.name);
            }
        }
    }
    let engine = Engine::start().unwrap();
    let logits = [&one, &npz].map(|path| {
        let source = SourceModel::open(path).unwrap();
        Model::load(&engine, &source, None).unwrap().logits(&[0, 5, 9], None).unwrap()
    });
    assert_eq!(logits[0], logits[1]);
}

#[test]
fn every_golden_case_converts_to_an_equal_model() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start().unwrap();
    for (index, case) in golden_cases().iter().enumerate() {
        let out = home.path().join(index.to_string());
        succeeded(&convert(case, &out, &["--dtype", "float32"]));
        let logits = [case, &out].map(|path| {
            let source = SourceModel::open(path).unwrap();
            assert!(source.spec().resolved.iter().all(|(key, value)| value.is_null()
                || path == case
                || source.decoder_config().get(key).is_some()));
            Model::load(&engine, &source, None).unwrap().logits(&[1, 7, 3, 11, 2], None).unwrap()
        });
        // Matrices of 16 bits are multiplied as they are, which sums in another order than float32's.
        let largest = logits[1].iter().fold(1.0_f32, |most, logit| most.max(logit.abs()));
        for (found, expected) in logits[0].iter().zip(&logits[1]) {
            assert!(
                (found - expected).abs() <= 1e-5 * expected.abs().max(1.0).max(largest / 5.0),
                "{}: {found}, expected {expected}",
                case.display()
            );
        }
    }
}

#[test]
fn values_beyond_float16_are_refused_and_bfloat16_takes_them() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    copy_folder(&bundled(), &model);
    let mut raw = RawCheckpoint::read(&model.join("model.safetensors"));
    raw.get_mut("model.norm.weight").3[..4].copy_from_slice(&70000f32.to_le_bytes());
    raw.write(&model.join("model.safetensors"));
    let out = home.path().join("out");
    let refused = convert(&model, &out, &["--dtype", "float16"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("`model.norm.weight`") && stderr(&refused).contains("hint: "),
        "{}",
        stderr(&refused)
    );
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing may be left behind");
    succeeded(&convert(&model, &out, &["--dtype", "bfloat16"]));
}

#[test]
fn an_existing_output_is_kept_without_overwrite() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&convert(&bundled(), &out, &[]));
    let before = fs::read(out.join("model.safetensors")).unwrap();
    let refused = convert(&bundled(), &out, &["--dtype", "float16"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--overwrite"), "{}", stderr(&refused));
    assert!(before == fs::read(out.join("model.safetensors")).unwrap());
    succeeded(&convert(&bundled(), &out, &["--dtype", "float16", "--overwrite"]));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn the_folder_one_stands_in_can_be_replaced() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&convert(&bundled(), &out, &[]));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_mixbit"))
        .args(["convert", "--hf-path", bundled().to_str().unwrap(), "--mlx-path", "../out", "--overwrite"])
        .args(["--dtype", "float16"])
        .current_dir(&out)
        .output()
        .unwrap();
    succeeded(&output);
    assert_eq!(json_file(&out.join("config.json"))["torch_dtype"], "float16");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
#[cfg(unix)]
fn a_linked_output_is_written_through_the_link() {
    let home = tempfile::tempdir().unwrap();
    let (real, link) = (home.path().join("real"), home.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    succeeded(&convert(&bundled(), &link, &[]));
    assert!(link.is_symlink() && real.join("config.json").is_file());
}

#[test]
#[cfg(unix)]
fn sigterm_is_told_and_leaves_nothing() {
    use std::process::Command;
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    command.args(["quantize", "--hf-path", bundled().to_str().unwrap(), "--mlx-path", out.to_str().unwrap()]);
    command.args(["--target-bpw", "4.5"]);
    // What is said last before sensitivities are measured, which takes seconds.
    let output = interrupted_after(&mut command, "-TERM", "estimated");
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    assert!(stderr(&output).contains("hint: nothing is kept yet"), "{}", stderr(&output));
}

#[test]
fn weights_and_not_the_config_decide_the_dtype() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    succeeded(&convert(&bundled(), &model, &["--dtype", "bfloat16"]));
    let claim = |dtype: &str| {
        let mut config = json_file(&model.join("config.json"));
        config["torch_dtype"] = dtype.into();
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        convert(&model, &out, &["--overwrite"])
    };
    let output = claim("bfloat16");
    succeeded(&output);
    assert!(!stderr(&output).contains("most weights are"), "{}", stderr(&output));
    let output = claim("float32");
    succeeded(&output);
    let note = "most weights are bfloat16, and config.json says float32: the weights decide, or --dtype";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    let after = RawCheckpoint::read(&out.join("model.safetensors"));
    assert!(after.tensors.iter().all(|tensor| tensor.1 == "BF16"));
    assert_eq!(json_file(&out.join("config.json"))["torch_dtype"], "bfloat16");
    succeeded(&claim("auto"));
    claim("flot16");
    let from = model.to_str().unwrap();
    let (to, table) = (home.path().join("new"), home.path().join("table.json"));
    let (to, table) = (to.to_str().unwrap(), table.to_str().unwrap());
    for arguments in [
        &["convert", "--hf-path", from, "--mlx-path", to][..],
        &["convert", "--hf-path", from, "--mlx-path", to, "--dtype", "bfloat16"],
        &["quantize", "--hf-path", from, "--mlx-path", to, "--bits", "4"],
        &["analyze", "--model", from, "--out", table],
        &["run", "--model", from, "--prompt", "x"],
        &["eval", "--model", from, "--data", from],
        &["inspect", from],
        &["check", from],
    ] {
        let output = mixbit(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = stdout(&output) + &stderr(&output);
        assert!(
            said.contains("torch_dtype") && said.contains("`flot16` is no type of float weights"),
            "{said}"
        );
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

#[test]
fn float64_checkpoints_become_float32() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&fixtures().join("golden/llama-yarn-rope"), &model);
    let mut raw = RawCheckpoint::read(&model.join("model.safetensors"));
    for (_, dtype, _, data) in &mut raw.tensors {
        *dtype = "F64".to_owned();
        *data =
            data.as_chunks().0.iter().flat_map(|b| f64::from(f32::from_le_bytes(*b)).to_le_bytes()).collect();
    }
    raw.write(&model.join("model.safetensors"));
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(model.join("config.json"), config.replace("\"float32\"", "\"float64\"")).unwrap();
    succeeded(&convert(&model, &out, &[]));
    let after = RawCheckpoint::read(&out.join("model.safetensors"));
    let before = RawCheckpoint::read(&fixtures().join("golden/llama-yarn-rope/model.safetensors"));
    assert!(after.tensors == before.tensors);
}

#[test]
fn long_integers_keep_their_digits() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&bundled(), &model);
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let long = "\"some_limit\": 1000000000000000019884624838656";
    fs::write(model.join("config.json"), config.replacen('{', &format!("{{{long},"), 1)).unwrap();
    succeeded(&convert(&model, &out, &[]));
    assert!(fs::read_to_string(out.join("config.json")).unwrap().contains(long));
}

#[test]
fn an_output_that_cannot_be_made_is_noticed_before_the_work() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let out = file.join("out");
    for (command, more) in [("convert", &[][..]), ("quantize", &["--target-bpw", "4"])] {
        let output = make(command, &bundled(), &out, more);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let said = stderr(&output);
        assert!(said.contains("a file is where a folder is needed") && !said.contains("reachable"), "{said}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn token_ids_written_as_floats_become_integers() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&bundled(), &model);
    for name in ["config.json", "generation_config.json"] {
        let mut keys = json_file(&model.join(name));
        keys["eos_token_id"] = json!([1.0, 4.0]);
        fs::write(model.join(name), keys.to_string()).unwrap();
    }
    succeeded(&make("convert", &model, &out, &[]));
    for name in ["config.json", "generation_config.json"] {
        assert_eq!(json_file(&out.join(name))["eos_token_id"].to_string(), "[1,4]", "{name}");
    }
}
