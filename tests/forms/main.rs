//! Other tools' forms of weights, through every command. The logits are compared in goldens.rs.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod experts;
mod hostile;
mod pickles;

use common::{bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use mixbit::engine::decoder::model::Model;
use mixbit::engine::runtime::Engine;
use mixbit::models::source::SourceModel;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the folders of all forms.
fn forms() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures().join("golden/forms")).unwrap();
    let mut forms: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    forms.sort();
    assert!(forms.len() > 20, "{forms:?}");
    forms
}

fn logits(folder: &Path) -> Vec<f32> {
    let source = SourceModel::open(folder).unwrap();
    let model = Model::load(&Engine::start().unwrap(), &source, None).unwrap();
    model.logits(&[1, 17, 40, 5, 62, 33, 2, 9], None).unwrap()
}

/// Largest difference, relative to the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / scale
}

/// Returns the setting that case.json promises for the layer at `path`: one for all, where the widest group is a question of
/// the columns, or one for each end of a path.
fn promised(case: &Value, path: &str, columns: usize) -> Option<String> {
    let ends = case["mlx"].as_object().into_iter().flatten();
    let own = ends.filter(|(end, _)| path.ends_with(end.as_str())).max_by_key(|(end, _)| end.len());
    let setting = own.map_or(&case["mlx"], |(_, setting)| setting).as_str()?;
    let widest = [128, 64, 32].into_iter().find(|group| columns.is_multiple_of(*group)).unwrap();
    Some(setting.replace('*', &widest.to_string()))
}

fn is_lossless(folder: &Path) -> bool {
    !json_file(&folder.join("case.json"))["mlx"].is_null()
}

fn is_packed(folder: &Path) -> bool {
    !folder.file_name().unwrap().to_str().unwrap().starts_with("pytorch")
}

#[test]
fn lossless_forms_arrive_as_layers_of_mlx() {
    for folder in forms() {
        let source = SourceModel::open(&folder).unwrap();
        let case = json_file(&folder.join("case.json"));
        for spec in source.manifest().iter() {
            let Some(path) = spec.path().filter(|path| path.ends_with("_proj")) else { continue };
            let found = source.bitmap().get(path).map(ToString::to_string);
            assert_eq!(found, promised(&case, path, spec.columns()), "{} {path}", folder.display());
        }
        let notes = source.spec().notes.join("\n");
        let said = if is_lossless(&folder) { "lossless" } else { "which MLX lacks: decoded" };
        assert_eq!(notes.contains(said), is_packed(&folder), "{}: {notes}", folder.display());
    }
}

#[test]
fn every_command_reads_every_form() {
    let home = tempfile::tempdir().unwrap();
    for folder in forms() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let path = |kind: &str| home.path().join(format!("{name}-{kind}"));
        let before = logits(&folder);
        // As they are, or in float32: no number changes.
        for (kind, command, more) in [
            ("kept", "convert", &["--dtype", "float32"][..]),
            ("decoded", "dequantize", &["--dtype", "float32"]),
        ] {
            if command == "dequantize" && !is_packed(&folder) {
                continue;
            }
            let output = make(command, &folder, &path(kind), more);
            succeeded(&output);
            let says = stderr(&output).contains("lossless");
            assert_eq!(says, is_lossless(&folder) && kind == "kept" && is_packed(&folder), "{name} {kind}");
            let error = difference(&logits(&path(kind)), &before);
            assert!(error < 2e-5, "{name} {kind}: {error:e}");
            assert!(
                json_file(&path(kind).join("config.json"))["quantization_config"]["quant_method"].is_null()
            );
        }
        let output = mixbit(["check", path("kept").to_str().unwrap()]);
        succeeded(&output);
        let output = mixbit(["check", folder.to_str().unwrap()]);
        succeeded(&output);
        let model = folder.to_str().unwrap();
        succeeded(&mixbit(["run", "--model", model, "--prompt", "the rain", "--max-tokens", "2"]));
    }
}

#[test]
fn inspect_shows_the_form_of_each_layer() {
    for folder in forms() {
        let output = mixbit(["inspect", folder.to_str().unwrap(), "--json"]);
        succeeded(&output);
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        for layer in report["layers"].as_array().unwrap() {
            let is_linear = layer["path"].as_str().unwrap().ends_with("_proj");
            assert_eq!(layer["form"].is_string(), is_linear && is_packed(&folder), "{layer}");
        }
        let output = mixbit(["inspect", folder.to_str().unwrap(), "--layers"]);
        succeeded(&output);
        assert_eq!(stdout(&output).contains("came as"), is_packed(&folder), "{}", stdout(&output));
    }
    let folder = fixtures().join("golden/forms/fp8-blocks");
    let report = mixbit(["inspect", folder.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_str(&stdout(&report)).unwrap();
    let down = report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|layer| layer["path"] == "model.layers.0.mlp.down_proj");
    // One byte for each weight, and two scales.
    assert_eq!(down.unwrap()["bytes"], 64 * 160 + 2 * 4);
}

#[test]
fn layers_that_came_quantized_stay_or_are_quantized_anew() {
    let home = tempfile::tempdir().unwrap();
    for folder in forms().iter().filter(|folder| is_packed(folder)) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let out = home.path().join(name);
        // The head, which is float, is quantized too.
        let output = make("quantize", folder, &out, &["--bits", "6:32", "--no-eval"]);
        succeeded(&output);
        assert_eq!(
            stderr(&output).contains("already quantized, passed through: 7 layers"),
            is_lossless(folder),
            "{name}"
        );
        let (before, after) = (SourceModel::open(folder).unwrap(), SourceModel::open(&out).unwrap());
        for (layer, quant) in before.bitmap() {
            assert_eq!(after.bitmap().get(layer), Some(quant), "{name} {layer}");
            let codes = format!("{layer}.weight");
            assert!(
                before.tensor(&codes).unwrap().bytes() == after.tensor(&codes).unwrap().bytes(),
                "{name} {codes}"
            );
        }
        assert_eq!(after.bitmap()["lm_head"].to_string(), "6:32", "{name}");
        let out = home.path().join(format!("{name}-anew"));
        let output = make("quantize", folder, &out, &["--bits", "6:32", "--no-eval", "--requantize"]);
        succeeded(&output);
        assert!(!stderr(&output).contains("lossless"), "{name}: {}", stderr(&output));
        let source = SourceModel::open(&out).unwrap();
        let proj = source.bitmap().iter().find(|(path, _)| path.ends_with("down_proj")).unwrap();
        assert_eq!(proj.1.to_string(), "6:32", "{name}");
        assert!(difference(&logits(&out), &logits(folder)) < 0.2, "{name}");
    }
}

#[test]
fn rules_for_layers_that_came_quantized_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let flags = ["--bits", "8:32", "--layer", "*.0.*.q_proj=4:32"];
    let output = make("quantize", &fixtures().join("golden/forms/gptq"), &home.path().join("out"), &flags);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    for expected in ["`model.layers.0.self_attn.q_proj` came quantized and stays as it is", "--requantize"] {
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn layers_of_mlx_are_quantized_anew_too() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let uniform = fixtures().join("golden/quantized-by-mlx-lm/llama-uniform-4-bits");
    succeeded(&make("quantize", &uniform, &out, &["--bits", "8:32", "--no-eval", "--requantize"]));
    assert!(difference(&logits(&out), &logits(&uniform)) < 0.05);
}

#[test]
fn requantize_without_codes_says_so() {
    let home = tempfile::tempdir().unwrap();
    let flags = ["--bits", "4", "--requantize", "--dry-run"];
    let output = make("quantize", &bundled(), &home.path().join("out"), &flags);
    succeeded(&output);
    let note = "--requantize changes nothing: no layer of this model came quantized";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
}

#[test]
fn requantize_where_all_is_decoded_says_so() {
    let home = tempfile::tempdir().unwrap();
    for (model, expected) in [
        (
            "golden/forms/bitsandbytes-nf4",
            Some("changes nothing for 7 quantized layers: MLX lacks their form"),
        ),
        ("golden/forms/gptq", None),
        ("golden/quantized-by-mlx-lm/llama-uniform-4-bits", None),
        (
            "gguf/types.gguf",
            Some("quantized layers: MLX lacks their form, so they are decoded without it too"),
        ),
    ] {
        let flags = ["--bits", "6:32", "--requantize", "--dry-run"];
        let output = make("quantize", &fixtures().join(model), &home.path().join("out"), &flags);
        succeeded(&output);
        let said = stderr(&output);
        assert!(expected.is_none_or(|note| said.contains(note)), "{model}: {said}");
        assert_eq!(said.contains("--requantize changes nothing"), expected.is_some(), "{model}: {said}");
    }
}

fn packed_bits(bits: u32) -> Value {
    serde_json::json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0":
        {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", "strategy": "channel"}}}})
}

fn merged(mut config: Value, more: &Value) -> Value {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn auto_round(layers: &Value) -> Value {
    serde_json::json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "extra_config": layers})
}

#[test]
fn what_no_one_reads_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    copy_folder(&fixtures().join("golden/forms/gptq"), &folder);
    let config = folder.join("config.json");
    let original = json_file(&config);
    for (change, expected) in [
        (serde_json::json!({"quant_method": "hqq"}), "\"hqq\""),
        (serde_json::json!({"quant_method": "aqlm"}), "\"aqlm\""),
        (serde_json::json!({"quant_method": "exl2"}), "\"exl2\""),
        (serde_json::json!({"quant_method": "bitnet"}), "\"bitnet\""),
        (serde_json::json!({"quant_method": 7}), "expected the name"),
        (serde_json::json!({"checkpoint_format": "marlin"}), "`checkpoint_format`"),
        (serde_json::json!({"bits": 5}), "`bits` 5"),
        (serde_json::json!({"group_size": "x"}), "group_size"),
        (serde_json::json!({"dynamic": {"+:.*down.*": {"bits": 5}}}), "dynamic.+:.*down.*.bits`"),
        (serde_json::json!({"dynamic": {"+:.*down.*": {"bits": 8}}}), "down_proj.qzeros`"),
        (
            serde_json::json!({"dynamic": {"(?!x)": {}}}),
            "`(?!x)` is not a regular expression that mixbit reads",
        ),
        (serde_json::json!({"dynamic": {".*down.*": 8}}), "dynamic..*down.*`: expected an object"),
        (
            serde_json::json!({"dynamic": {"-:.*down.*": {}}}),
            "down_proj.qweight`: is packed, and config.json says that the layer is float",
        ),
        (
            auto_round(&serde_json::json!({"down_proj": {"bits": 16}})),
            "down_proj.qweight`: is packed, and config.json says that the layer is float",
        ),
        (auto_round(&serde_json::json!({"down_proj": {"data_type": "mx_fp"}})), "`data_type` \"mx_fp\""),
        (auto_round(&serde_json::json!({"down_proj": {"bits": 8}})), "down_proj.qzeros`"),
        (auto_round(&serde_json::json!(["down_proj"])), "extra_config`: expected an object of layers"),
        (serde_json::json!({"quant_method": "awq", "version": "gemv"}), "`version` \"gemv\""),
        (serde_json::json!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}), "`quant_algo`"),
        (
            serde_json::json!({"quant_method": "modelopt"}),
            "quantization_config.quant_method`: missing, and tensor `",
        ),
        (
            serde_json::json!({"dynamic": {".*down.*": {"is_marlin_format": "no"}}}),
            "dynamic..*down.*.is_marlin_format`: expected true or false, found \"no\"",
        ),
        (
            merged(
                packed_bits(4),
                &serde_json::json!({"transform_config": {"config_groups": {"R1":
                {"type": "hadamard", "apply": [{"location": "weight_input"}, {"location": "input"}]}}}}),
            ),
            "transform_config.config_groups.R1`: the checkpoint is quantized by compressed-tensors: a transform at \"input\"",
        ),
        (
            merged(packed_bits(4), &serde_json::json!({"format": "sparse-24-bitmask"})),
            "`sparse-24-bitmask` of compressed-tensors",
        ),
        (serde_json::json!({"quant_method": "fp8", "fmt": "e5m2"}), "`fmt` \"e5m2\""),
        (serde_json::json!({"quant_method": "fp8", "weight_block_size": [0, 1]}), "weight_block_size"),
        (serde_json::json!({"quant_method": "compressed-tensors", "config_groups": 3}), "config_groups"),
        (
            serde_json::json!({"quant_method": "compressed-tensors", "config_groups": {}}),
            "`: is packed, and not as the compressed-tensors settings say",
        ),
        (
            serde_json::json!({"quant_method": null}),
            "key `quantization_config.quant_method`: missing, and tensor `",
        ),
        (
            serde_json::json!({"quant_method": "bitsandbytes"}),
            "`: is packed, and not as the bitsandbytes settings say",
        ),
        (packed_bits(0), "compressed-tensors: 0 in pack-quantized is not read"),
        (packed_bits(9), "compressed-tensors: 9 in pack-quantized is not read"),
        (
            serde_json::json!({"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups":
                {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}}}),
            "`marlin-24` of compressed-tensors",
        ),
    ] {
        let mut changed = original.clone();
        let keys = changed["quantization_config"].as_object_mut().unwrap();
        keys.extend(change.as_object().unwrap().clone());
        fs::write(&config, changed.to_string()).unwrap();
        for command in ["inspect", "check"] {
            let output = mixbit([command, folder.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1), "{change}");
            let said = stderr(&output) + &stdout(&output);
            assert!(said.contains(expected), "{change}: {said}");
        }
    }
}

#[test]
fn single_layers_have_settings_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let mixed = fixtures().join("golden/forms/auto-round-mixed");
    let expected = logits(&mixed);
    let four = serde_json::json!({"bits": 4});
    let eight = serde_json::json!({"bits": 8});
    let two = serde_json::json!({"bits": 2, "group_size": 64});
    let float = serde_json::json!({"bits": 16});
    let (down, q) = ("language_model.model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj");
    for (name, change) in [
        ("paths before patterns", auto_round(&serde_json::json!({"proj$": four, down: eight, q: two}))),
        (
            "the first pattern",
            auto_round(&serde_json::json!({"down": eight, "(q|x)_proj": two, "proj": four, "head": float})),
        ),
        ("blocks", auto_round(&serde_json::json!({"layers.0.mlp": four, "q_proj": two, down: eight}))),
        (
            "dynamic",
            serde_json::json!({"quant_method": "gptq", "dynamic":
                {"-:(?!model).*": {}, "-:lm_head": {}, "+:.*down": eight, "model\\..*q_proj": two, ".*": {}}}),
        ),
    ] {
        let folder = home.path().join(name);
        copy_folder(&mixed, &folder);
        let mut config = json_file(&folder.join("config.json"));
        config["quantization_config"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        assert_eq!(logits(&folder), expected, "{name}");
    }
}

#[test]
fn settings_of_no_layer_are_noted() {
    let home = tempfile::tempdir().unwrap();
    let mixed = fixtures().join("golden/forms/auto-round-mixed");
    let eight = serde_json::json!({"bits": 8});
    let two = serde_json::json!({"bits": 2, "group_size": 64});
    let (down, q) = ("model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj");
    for (name, change, expected) in [
        ("all named", auto_round(&serde_json::json!({down: eight, q: two, "lm_head": eight})), None),
        (
            "some not",
            auto_round(&serde_json::json!(
                {"model.layers.7.mlp": eight, down: eight, q: two, "gate_up": eight, "layers.0.ml": eight}
            )),
            Some("extra_config` names no layer of this model: `gate_up`, `layers.0.ml`, `layers.7.mlp`\n"),
        ),
        (
            "patterns",
            serde_json::json!({"quant_method": "gptq", "dynamic":
                {"-:proj": {}, "+:.*vision": eight, "+:.*down": eight, ".*q_proj": two}}),
            Some("dynamic` names no layer of this model: `.*vision`, `proj`\n"),
        ),
    ] {
        let folder = home.path().join(name);
        copy_folder(&mixed, &folder);
        let mut config = json_file(&folder.join("config.json"));
        config["quantization_config"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let output = mixbit(["inspect", folder.to_str().unwrap()]);
        succeeded(&output);
        let said = stderr(&output);
        assert!(expected.is_none_or(|note| said.contains(note)), "{name}: {said}");
        assert_eq!(said.contains("names no layer"), expected.is_some(), "{name}: {said}");
    }
}

#[test]
fn a_section_without_a_method_is_refused() {
    let home = tempfile::tempdir().unwrap();
    for form in ["fp8-blocks", "packed", "nvfp4-compressed"] {
        let folder = home.path().join(form);
        copy_folder(&fixtures().join("golden/forms").join(form), &folder);
        let mut config = json_file(&folder.join("config.json"));
        config["quantization_config"].as_object_mut().unwrap().remove("quant_method");
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let output = mixbit(["inspect", folder.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{form}");
        let expected = "config.json: key `quantization_config.quant_method`: missing";
        assert!(stderr(&output).contains(expected), "{form}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: mixbit reads fp8, compressed-tensors"), "{form}");
    }
}

#[test]
fn convert_decodes_where_it_is_asked_to() {
    let home = tempfile::tempdir().unwrap();
    let (by_convert, by_dequantize) = (home.path().join("convert"), home.path().join("dequantize"));
    for (model, codes) in [
        ("golden/forms/gptq", true),
        ("golden/forms/packed-seven-bits", true),
        ("models/mobilellm-docs-1m", false),
    ] {
        let model = fixtures().join(model);
        let output = make("convert", &model, &by_convert, &["--dequantize", "--overwrite"]);
        succeeded(&output);
        assert!(SourceModel::open(&by_convert).unwrap().bitmap().is_empty());
        assert_eq!(stderr(&output).contains(" back to "), codes, "{}", stderr(&output));
        let other = if codes { "dequantize" } else { "convert" };
        succeeded(&make(other, &model, &by_dequantize, &["--overwrite"]));
        let [found, expected] = [&by_convert, &by_dequantize]
            .map(|folder| std::fs::read(folder.join("model.safetensors")).unwrap());
        assert!(found == expected, "{}", model.display());
    }
}
