//! Models whose text decoder lies beside a vision tower: what is read, what is left out, and what is written.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{RawCheckpoint, copy_folder, golden_cases, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

use mixbit::models::source::SourceModel;

/// Start of the names that mlx-lm's wrappers have for the decoder.
const PREFIX: &str = "language_model.";

fn case(name: &str) -> PathBuf {
    common::fixtures().join("golden").join(name)
}

/// Returns the golden cases of wrappers, those that are quantized left out.
fn wrapped_cases() -> Vec<PathBuf> {
    let is_wrapped = |folder: &PathBuf| {
        let config = json_file(&folder.join("config.json"));
        config.get("text_config").is_some() && config.get("quantization").is_none()
    };
    golden_cases().into_iter().filter(is_wrapped).collect()
}

/// Returns the start of the names that mlx-lm has for the decoder of a case: its Muse Glimmer keeps the decoder alone.
fn prefix(folder: &Path) -> &'static str {
    let config = json_file(&folder.join("config.json"));
    if config["model_type"] == "muse_glimmer" { "" } else { PREFIX }
}

/// Returns a case of one weight file, changed by `change`.
fn changed(name: &str, home: &Path, change: impl FnOnce(&mut RawCheckpoint, &mut Value)) -> PathBuf {
    let model = home.join(name);
    copy_folder(&case(name), &model);
    let mut raw = RawCheckpoint::read(&model.join("model.safetensors"));
    let mut config = json_file(&model.join("config.json"));
    change(&mut raw, &mut config);
    raw.write(&model.join("model.safetensors"));
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    model
}

fn names(folder: &Path) -> Vec<String> {
    RawCheckpoint::read(&folder.join("model.safetensors"))
        .tensors
        .into_iter()
        .map(|tensor| tensor.0)
        .collect()
}

#[test]
fn the_decoder_is_written_as_mlx_lm_nests_it() {
    let home = tempfile::tempdir().unwrap();
    let cases = wrapped_cases();
    assert!(cases.len() >= 4, "{cases:?}");
    for (index, folder) in cases.iter().enumerate() {
        let (first, second) = (home.path().join(format!("{index}a")), home.path().join(format!("{index}b")));
        let output = make("convert", folder, &first, &[]);
        succeeded(&output);
        let said = stderr(&output);
        assert!(
            said.contains("note: dropped ") && said.contains("mlx-lm's text model does not use them"),
            "{said}"
        );
        let names = names(&first);
        let written: Vec<_> = names.iter().filter(|name| name.starts_with(PREFIX)).collect();
        assert_eq!(written.len(), if prefix(folder).is_empty() { 0 } else { names.len() }, "{folder:?}");
        let config = json_file(&first.join("config.json"));
        for key in ["model_type", "rms_norm_eps", "tie_word_embeddings", "num_key_value_heads"] {
            assert!(config["text_config"].get(key).is_some(), "{folder:?}: text_config.{key}");
        }
        let output = make("convert", &first, &second, &[]);
        succeeded(&output);
        assert!(!stderr(&output).contains("dropped"), "{}", stderr(&output));
        for file in ["model.safetensors", "config.json"] {
            assert!(
                fs::read(first.join(file)).unwrap() == fs::read(second.join(file)).unwrap(),
                "{folder:?} {file}"
            );
        }
        succeeded(&mixbit(["check".as_ref(), first.as_os_str()]));
        succeeded(&mixbit(["check".as_ref(), folder.as_os_str()]));
    }
}

#[test]
fn quantized_paths_have_the_prefix() {
    let home = tempfile::tempdir().unwrap();
    for (index, folder) in wrapped_cases().iter().enumerate() {
        let out = home.path().join(index.to_string());
        succeeded(&make("quantize", folder, &out, &["--bits", "4", "--group-size", "32"]));
        let config = json_file(&out.join("config.json"));
        let map = config["quantization"].as_object().unwrap();
        assert!(
            map.keys().filter(|key| key.contains('.')).all(|key| key.starts_with(prefix(folder))),
            "{map:?}"
        );
        let source = SourceModel::open(&out).unwrap();
        assert!(source.bitmap().keys().all(|path| !path.starts_with(PREFIX)) && !source.bitmap().is_empty());
        succeeded(&mixbit(["inspect".as_ref(), out.as_os_str()]));
        succeeded(&mixbit(["check".as_ref(), out.as_os_str(), "--reference".as_ref(), folder.as_os_str()]));
        let float = home.path().join(format!("{index}f"));
        succeeded(&make("dequantize", &out, &float, &[]));
        assert!(SourceModel::open(&float).unwrap().bitmap().is_empty());
    }
}

#[test]
fn unknown_layers_are_named_as_the_file_has_them() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("quantize", &case("gemma3-prefixed"), &out, &["--bits", "4", "--group-size", "32"]));
    let config = json_file(&out.join("config.json"));
    for prefix in ["language_model.model.", "model.language_model.", "model."] {
        let unknown = format!("{prefix}layers.0.self_attn.qproj");
        let mut config = config.clone();
        config["quantization"][&unknown] = json!({"bits": 4, "group_size": 32});
        fs::write(out.join("config.json"), config.to_string()).unwrap();
        let output = mixbit(["inspect".as_ref(), out.as_os_str()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in [
            format!("names 1 layer that this model lacks: `{unknown}`\n"),
            format!("called like `{prefix}layers.0."),
            format!("did you mean `{prefix}layers.0.self_attn.q_proj` by `{unknown}`?"),
        ] {
            assert!(said.contains(&part), "{part}: {said}");
        }
    }
}

/// Golden wrappers that stock mlx-lm has quantized, with one layer still float.
#[test]
fn decoders_quantized_by_mlx_lm_are_read() {
    const FLOAT: &str = "model.layers.1.self_attn.v_proj";
    let home = tempfile::tempdir().unwrap();
    let text = home.path().join("text.txt");
    fs::write(&text, "the rain and the wind and the sea\n".repeat(20)).unwrap();
    for (name, float) in
        [("gemma3-mixed-bits", "gemma3-prefixed"), ("qwen2-5-vl-mixed-bits", "qwen2-5-vl-untied")]
    {
        let model = case("quantized-by-mlx-lm").join(name);
        let (converted, quantized) = (home.path().join(name), home.path().join(format!("{name}-q")));
        succeeded(&make("convert", &model, &converted, &[]));
        succeeded(&make("quantize", &model, &quantized, &["--bits", "4", "--group-size", "32"]));
        let before = SourceModel::open(&model).unwrap();
        assert!(before.bitmap().len() > 10 && !before.bitmap().contains_key(FLOAT), "{:?}", before.bitmap());
        for (out, more) in [(&converted, 0), (&quantized, 1)] {
            let after = SourceModel::open(out).unwrap();
            assert_eq!(after.bitmap().len(), before.bitmap().len() + more);
            for (layer, part) in before
                .bitmap()
                .keys()
                .flat_map(|layer| ["weight", "scales", "biases"].map(|part| (layer, part)))
            {
                let name = format!("{layer}.{part}");
                let (old, new) = (before.tensor(&name).unwrap(), after.tensor(&name).unwrap());
                assert!(old.dtype == new.dtype && old.bytes() == new.bytes(), "{name}");
            }
            let written = json_file(&out.join("config.json"));
            for (path, bits) in [("self_attn.q_proj", 8), ("mlp.down_proj", 3), ("mlp.up_proj", 4)] {
                let entry = &written["quantization"][format!("{PREFIX}model.layers.0.{path}")];
                assert_eq!(entry["bits"], bits, "{path}: {entry}");
            }
            let (out, text) = (out.as_os_str(), text.as_os_str());
            let reference = case(float);
            succeeded(&mixbit(["inspect".as_ref(), out]));
            succeeded(&mixbit(["check".as_ref(), out, "--reference".as_ref(), reference.as_os_str()]));
            let run = ["--prompt".as_ref(), "the rain".as_ref(), "--max-tokens".as_ref(), "4".as_ref()];
            succeeded(&mixbit([&["run".as_ref(), "--model".as_ref(), out], &run[..]].concat()));
            let eval = ["eval".as_ref(), "--model".as_ref(), out, "--data".as_ref(), text];
            succeeded(&mixbit([&eval[..], &["--reference".as_ref(), reference.as_os_str()]].concat()));
        }
    }
}

#[test]
fn bit_maps_of_towers_are_left_out() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("q");
    succeeded(&make("quantize", &case("qwen3-vl-untied"), &out, &["--bits", "4", "--group-size", "32"]));
    let bits = SourceModel::open(&out).unwrap().bitmap().clone();
    let mut config = json_file(&out.join("config.json"));
    config["quantization"]["vision_tower.layers.0.mlp.fc1"] = json!({"bits": 8, "group_size": 64});
    config["quantization"]["vision_tower.layers.1.mlp.fc1"] = json!(false);
    fs::write(out.join("config.json"), config.to_string()).unwrap();
    let source = SourceModel::open(&out).unwrap();
    assert_eq!(source.bitmap(), &bits);
    assert!(
        source.spec().notes.iter().all(|note| !note.contains("vision_tower")),
        "{:?}",
        source.spec().notes
    );
}

#[test]
fn towers_are_kept_byte_by_byte() {
    let home = tempfile::tempdir().unwrap();
    for name in ["qwen3-vl-tied", "qwen3-vl-untied"] {
        let model = changed(name, home.path(), |_, _| ());
        fs::write(model.join("preprocessor_config.json"), r#"{"size": 1}"#).unwrap();
        let before = RawCheckpoint::read(&model.join("model.safetensors")).tensors;
        let is_tower = |name: &str| name.contains("visual.") || name.contains("vision_tower.");
        for (command, more) in
            [("convert", &["--dtype", "float16"][..]), ("quantize", &["--bits", "4", "--group-size", "32"])]
        {
            let out = home.path().join(format!("{name}-{command}"));
            let output = make(command, &model, &out, &[more, &["--keep-towers"]].concat());
            succeeded(&output);
            assert!(stderr(&output).contains("note: kept "), "{}", stderr(&output));
            let after = RawCheckpoint::read(&out.join("model.safetensors")).tensors;
            let stored = |name: &str| after.iter().find(|tensor| tensor.0 == name).unwrap();
            let mut towers = 0;
            for tensor in before.iter().filter(|tensor| is_tower(&tensor.0)) {
                let new = stored(tensor.0.trim_start_matches("model."));
                assert!((&new.1, &new.2) == (&tensor.1, &tensor.2) && new.3 == tensor.3, "{}", tensor.0);
                towers += 1;
            }
            assert!(towers >= 3);
            assert!(out.join("preprocessor_config.json").is_file());
            assert!(SourceModel::open(&out).is_ok());
        }
    }
    let out = home.path().join("text");
    succeeded(&make("convert", &case("qwen3-vl-tied"), &out, &[]));
    let refused = make("convert", &out, &home.path().join("again"), &["--keep-towers"]);
    assert!(stderr(&refused).contains("no tensors beside the text model"), "{}", stderr(&refused));
}

#[test]
fn tensors_of_nobody_are_refused() {
    let home = tempfile::tempdir().unwrap();
    for name in ["audio_tower.fc.weight", "language_model.model.layers.0.mlp.extra.weight", "model.visual2.a"]
    {
        let model = changed("qwen3-vl-untied", home.path(), |raw, _| {
            raw.tensors.push((name.to_owned(), "F32".to_owned(), vec![1], vec![0; 4]));
        });
        let refused = make("convert", &model, &home.path().join("out"), &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(&format!("`{name}`")), "{}", stderr(&refused));
    }
}

#[test]
fn missing_tensors_are_named() {
    let home = tempfile::tempdir().unwrap();
    let model = changed("qwen3-vl-untied", home.path(), |raw, _| {
        raw.remove("language_model.model.layers.0.mlp.up_proj.weight");
    });
    let refused = make("convert", &model, &home.path().join("out"), &[]);
    assert!(stderr(&refused).contains("model.layers.0.mlp.up_proj.weight"), "{}", stderr(&refused));
}

#[test]
fn text_models_of_other_kinds_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let model = changed("qwen3-vl-untied", home.path(), |_, config| {
        config["text_config"]["model_type"] = json!("qwen9");
    });
    let refused = make("convert", &model, &home.path().join("out"), &[]);
    let said = stderr(&refused);
    assert!(said.contains("key `text_config.model_type`: `qwen9` is not supported in `qwen3_vl`"), "{said}");
}

#[test]
fn unknown_types_say_what_they_seem_to_need() {
    let home = tempfile::tempdir().unwrap();
    let model = changed("qwen3-vl-untied", home.path(), |_, config| {
        config["model_type"] = json!("gpt9");
        config["final_logit_softcapping"] = json!(30.0);
    });
    let refused = mixbit(["inspect".as_ref(), model.as_os_str()]);
    let said = stderr(&refused);
    for part in [
        "`gpt9` is not supported",
        "logit caps (`final_logit_softcapping`)",
        "towers",
        "`mixbit models`",
        "issue",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let checked = mixbit(["check".as_ref(), model.as_os_str()]);
    let said = stdout(&checked) + &stderr(&checked);
    assert!(said.contains("logit caps (`final_logit_softcapping`)"), "{said}");
}

#[test]
fn keys_of_other_families_are_noted() {
    let home = tempfile::tempdir().unwrap();
    let model = changed("llama-mha-untied", home.path(), |_, config| {
        config["final_logit_softcapping"] = json!(30.0);
        config["embedding_multiplier"] = json!(1.0);
    });
    let output = make("convert", &model, &home.path().join("out"), &[]);
    succeeded(&output);
    let said = stderr(&output);
    assert!(said.contains("keys of other architectures, `final_logit_softcapping`: ignored"), "{said}");
}
