//! Models with experts: their tensors are stacked, each expert is rounded by its own inputs, and faults are named.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{
    RawCheckpoint, bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mixbit::choose::scores::Method;
use mixbit::engine::decoder::load::Rounding;
use mixbit::engine::measure::compare::Comparison;
use mixbit::engine::measure::sensitivities::analyze;
use mixbit::engine::measure::settings::AnalysisSettings;
use mixbit::engine::passes::collector::Extent;
use mixbit::engine::passes::moments::{MomentSettings, input_moments};
use mixbit::engine::runtime::Engine;
use mixbit::models::source::SourceModel;
use mixbit::models::spec::Tap;
use mixbit::numerics::affine::FloatType;
use mixbit::numerics::dtype::extend_f32;
use mixbit::numerics::quant::Quant;
use mixbit::numerics::rounding::Technique;

fn untied() -> PathBuf {
    fixtures().join("golden/qwen3-moe-untied")
}

fn mixed() -> PathBuf {
    fixtures().join("golden/qwen3-moe-mixed")
}

/// Returns ids that look like a text in which some experts are used more than others.
fn sequences(count: u32, length: u32) -> Vec<Vec<u32>> {
    (0..count).map(|s| (0..length).map(|i| (i * i * (s + 3) + 7 * s) % 64).collect()).collect()
}

/// Writes the tokens as a file for `--calibration`.
fn token_file(home: &Path, count: u32, length: u32) -> String {
    let file = home.join("tokens.npy");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({count}, {length}), }}");
    let padded = format!("{header:<117}\n");
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes.extend(sequences(count, length).concat().iter().flat_map(|id| id.to_le_bytes()));
    std::fs::write(&file, bytes).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Returns the tensors of all shards of a model.
fn all_tensors(folder: &Path) -> Vec<(String, String, Vec<usize>, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("model") && name.ends_with(".safetensors")
    });
    weights.flat_map(|path| RawCheckpoint::read(&path).tensors).collect()
}

#[test]
fn experts_are_stacked_in_their_order() {
    let home = tempfile::tempdir().unwrap();
    for (model, experts, blocks) in [(untied(), 8, vec![0, 1]), (mixed(), 6, vec![3])] {
        let out = home.path().join(experts.to_string());
        succeeded(&make("convert", &model, &out, &[]));
        let (before, after) = (all_tensors(&model), all_tensors(&out));
        let get = |tensors: &[(String, String, Vec<usize>, Vec<u8>)], name: &str| {
            tensors.iter().find(|tensor| tensor.0 == name).unwrap().clone()
        };
        for block in &blocks {
            for part in ["gate_proj", "up_proj", "down_proj"] {
                let mlp = format!("model.layers.{block}.mlp");
                let parts = (0..experts).map(|e| get(&before, &format!("{mlp}.experts.{e}.{part}.weight")));
                let parts: Vec<_> = parts.collect();
                let whole = get(&after, &format!("{mlp}.switch_mlp.{part}.weight"));
                assert_eq!(whole.2, [&[experts], &parts[0].2[..]].concat());
                assert!(whole.3 == parts.into_iter().flat_map(|part| part.3).collect::<Vec<u8>>());
            }
        }
        let names: BTreeSet<String> = after.into_iter().map(|tensor| tensor.0).collect();
        assert!(!names.iter().any(|name| name.contains(".experts.")));
        assert_eq!(names.len(), SourceModel::open(&model).unwrap().manifest().iter().count());
    }
}

#[test]
fn rounding_to_nearest_is_that_of_each_expert() {
    let home = tempfile::tempdir().unwrap();
    let (whole, float) = (home.path().join("whole"), home.path().join("float"));
    succeeded(&make("quantize", &mixed(), &whole, &["--bits", "3:32", "--dtype", "float32"]));
    succeeded(&make("dequantize", &whole, &float, &[]));
    let quantized = SourceModel::open(&whole).unwrap();
    let path = "model.layers.3.mlp.switch_mlp.up_proj";
    assert_eq!(quantized.tensor(&format!("{path}.weight")).unwrap().shape, [6, 32, 3]);
    assert_eq!(quantized.tensor(&format!("{path}.scales")).unwrap().shape, [6, 32, 1]);
    assert_eq!(quantized.bitmap().len(), 28);
    assert!(!quantized.bitmap().contains_key("model.layers.3.mlp.gate"), "the router stays float");
    let decoded = |folder: &Path, name: &str| {
        let source = SourceModel::open(folder).unwrap();
        let tensor = source.tensor(name).unwrap();
        let mut values = Vec::new();
        extend_f32(tensor.dtype, &tensor.bytes(), &mut values);
        (tensor.shape.to_vec(), values)
    };
    let (shape, found) = decoded(&float, &format!("{path}.weight"));
    let (same, weights) = decoded(&mixed(), &format!("{path}.weight"));
    assert_eq!((&shape, &same), (&vec![6, 32, 32], &shape));
    let errors =
        mixbit::numerics::affine::rounding_error(&weights, 32, Quant::affine(3, 32), FloatType::F32).unwrap();
    let differ = found.iter().zip(weights.iter().zip(&errors)).map(|(f, (w, e))| (f - (w + e)).abs());
    assert!(differ.fold(0.0, f32::max) < 1e-6);
}

/// An expert's inputs are the tokens that the router sends there; all experts get each token as often as the config says.
#[test]
fn moments_are_those_of_each_experts_tokens() {
    let source = SourceModel::open(&mixed()).unwrap();
    let engine = Engine::start().unwrap();
    let sequences = sequences(4, 40);
    let moments = |extent| {
        let mut found = Vec::new();
        let settings =
            MomentSettings { sequences: &sequences, extent, memory: u64::MAX, progress: &|_, _| {} };
        input_moments(&engine, &source, &settings, |_, moments| {
            found.push(moments.clone());
            Ok(())
        })
        .unwrap();
        found
    };
    let (full, diagonal) = (moments(Extent::Full), moments(Extent::Diagonal));
    for (block, (full, diagonal)) in full.iter().zip(&diagonal).enumerate() {
        for (tap, moment) in full {
            // decoder_sparse_step is 2, and mlp_only_layers names block 1.
            let experts = if block == 3 && [Tap::MLP, Tap::INNER].contains(tap) { 6 } else { 1 };
            assert_eq!(moment.tokens().len(), experts, "{block} {tap:?}");
            assert_eq!(moment.tokens().iter().sum::<usize>(), if experts == 6 { 3 * 160 } else { 160 });
            assert_eq!(moment.tokens(), diagonal[tap].tokens());
            let (from_full, own) = (moment.diagonals(), diagonal[tap].diagonals());
            assert_eq!(own.len(), experts * moment.columns());
            // What is estimated from few rows is shrunk, but not on its diagonal.
            let differ = from_full.iter().zip(&own).map(|(a, b)| (a - b).abs() / b.abs().max(1e-6));
            assert!(differ.fold(0.0, f32::max) < 1e-3, "{block} {tap:?}");
        }
    }
}

/// In a model that is rounded throughout, the first-order change of the KL divergence is the difference of two alignments:
/// gradients of experts, routers' choices held, are slopes.
#[test]
fn predicted_divergence_is_what_is_measured() {
    let source = SourceModel::open(&mixed()).unwrap();
    let engine = Engine::start().unwrap();
    let sequences = sequences(48, 64);
    let quant = Quant::affine(6, 32);
    let settings = AnalysisSettings {
        sequences: &sequences,
        candidates: &[quant],
        method: Method::FisherDiagonal,
        technique: Technique::Rtn,
        dtype: FloatType::F32,
        skip: [].into(),
        seed: 0,
        memory: u64::MAX,
        costs: mixbit::engine::measure::settings::StepCosts::default(),
        progress: &|_, _| {},
    };
    let mut layers = Vec::new();
    analyze(&engine, &source, &settings, |layer| {
        layers.push(layer);
        Ok(())
    })
    .unwrap();
    assert_eq!(layers.len(), 28);
    let comparison = Comparison::new(&engine, &source, &sequences, u64::MAX).unwrap();
    for layer in layers.iter().filter(|layer| layer.path.contains("switch_mlp")) {
        let one = Rounding { bitmap: [(layer.path.clone(), quant)].into(), dtype: FloatType::F32 };
        let (predicted, found) = (layer.scores[0].kl, comparison.kl_divergence(&one).unwrap());
        assert!((0.4..2.5).contains(&(predicted / found)), "{} {predicted} {found}", layer.path);
    }
}

#[test]
fn experts_that_saw_few_tokens_are_searched_and_reported() {
    let home = tempfile::tempdir().unwrap();
    let quantize = |name: &str, count: u32, length: u32, more: &[&str]| {
        let out = home.path().join(name);
        let tokens = token_file(home.path(), count, length);
        let (count, length) = (count.to_string(), length.to_string());
        let flags =
            ["--calibration", &tokens, "--samples", &count, "--sequence-length", &length, "--no-eval"];
        let output = make("quantize", &untied(), &out, &[&flags[..], more].concat());
        succeeded(&output);
        (stderr(&output), json_file(&out.join("mixbit-report.json"))["feedback"].take(), out)
    };
    let bits = ["--bits", "4:32", "--rounding", "gptq"];
    let (said, feedback, out) = quantize("few", 2, 24, &bits);
    let few = feedback["few_tokens"].as_object().unwrap();
    assert!(few.len() == 6 && few.keys().all(|path| path.contains("switch_mlp")), "{feedback}");
    let experts: usize = few.values().map(|experts| experts.as_array().unwrap().len()).sum();
    assert!(experts > 24, "gate, up and down count an expert each: {feedback}");
    assert!(said.contains(&format!("fewer than 32 tokens came to {} of 16 experts", experts / 3)), "{said}");
    let rows = |layer: &str| feedback["searched_rows"][layer].as_u64().unwrap();
    assert!(few.iter().all(|(path, experts)| rows(path) >= 32 * experts.as_array().unwrap().len() as u64));
    let page = home.path().join("page.html");
    succeeded(&mixbit(["report", out.to_str().unwrap(), "--out", page.to_str().unwrap()]));
    assert!(std::fs::read_to_string(page).unwrap().contains("fewer than 32 tokens came to"));
    // 12 tokens for an expert on average: all of them are as scale search left them, as without error feedback.
    let (_, _, searched) = quantize("searched", 2, 24, &["--bits", "4:32", "--rounding", "search"]);
    let bytes = |folder: &Path, path: &str| {
        SourceModel::open(folder).unwrap().tensor(&format!("{path}.weight")).unwrap().bytes().into_owned()
    };
    for (path, experts) in few {
        let (fed, plain) = (bytes(&out, path), bytes(&searched, path));
        let each = fed.len() / 8;
        for expert in experts.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize) {
            assert!(fed[expert * each..][..each] == plain[expert * each..][..each], "{path} {expert}");
        }
    }
    let (said, feedback, _) = quantize("many", 60, 64, &bits);
    assert!(feedback.get("few_tokens").is_none() && !said.contains("fewer than 32"), "{said}");
}

#[test]
fn all_ways_of_fine_tuning_take_experts() {
    let home = tempfile::tempdir().unwrap();
    let (out, tokens) = (home.path().join("out"), token_file(home.path(), 80, 64));
    let flags = [
        ["--target-bpw", "4.5"],
        ["--calibration", &tokens],
        ["--samples", "24"],
        ["--sequence-length", "64"],
        ["--candidates", "3:32,4:32,6:32"],
        ["--refine", "1"],
        ["--distill", "12"],
    ];
    let output = make("quantize", &mixed(), &out, &flags.concat());
    succeeded(&output);
    let record = json_file(&out.join("mixbit-report.json"));
    let distillation = &record["distillation"];
    assert!(distillation["kl_after"].as_f64() < distillation["kl_before"].as_f64(), "{distillation}");
    assert!(record["bpw_quantized"].as_f64().unwrap() <= 4.5);
    succeeded(&mixbit(["check", out.to_str().unwrap(), "--reference", mixed().to_str().unwrap()]));
    let run = mixbit(["run", "--model", out.to_str().unwrap(), "--prompt", "the rain", "--max-tokens", "4"]);
    succeeded(&run);
}

#[test]
fn what_is_wrong_with_experts_is_said() {
    let home = tempfile::tempdir().unwrap();
    let refused = |name: &str,
                   damage: &dyn Fn(&mut RawCheckpoint),
                   config: &[(&str, serde_json::Value)],
                   expected: &str| {
        let model = home.path().join(name);
        copy_folder(&untied(), &model);
        let file = model.join("model.safetensors");
        let mut weights = RawCheckpoint::read(&file);
        damage(&mut weights);
        weights.write(&file);
        let mut written = json_file(&model.join("config.json"));
        for (key, value) in config {
            written[key] = value.clone();
        }
        std::fs::write(model.join("config.json"), written.to_string()).unwrap();
        let output = make("convert", &model, &home.path().join("out"), &[]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{name}: {}", stderr(&output));
        assert!(!home.path().join("out").exists());
        let check = mixbit(["check", model.to_str().unwrap()]);
        assert!(!check.status.success() && stdout(&check).contains("problem"), "{name}: {}", stdout(&check));
    };
    let part = "model.layers.1.mlp.experts.3.up_proj.weight";
    let nothing = |_: &mut RawCheckpoint| {};
    refused("missing", &|raw| raw.remove(part), &[], "expert 3 is missing");
    let last = part.replace(".3.", ".7.");
    refused("last", &|raw| raw.remove(&last), &[], "7 experts are there, config.json says 8");
    for (name, to) in [("zero", ".03."), ("sign", ".+3."), ("word", ".abc."), ("negative", ".-3.")] {
        let renamed = |raw: &mut RawCheckpoint| raw.get_mut(part).0 = part.replace(".3.", to);
        refused(name, &renamed, &[], &format!("experts{to}up_proj.weight`: is no expert's weight"));
    }
    let bias = |raw: &mut RawCheckpoint| raw.get_mut("model.norm.weight").0 = part.replace("weight", "bias");
    refused("bias", &bias, &[], "is no expert's weight");
    refused(
        "shape",
        &|raw| raw.get_mut(part).2 = vec![16, 64],
        &[],
        "is bfloat16 [16, 64], the first expert's bfloat16 [32, 32]",
    );
    refused("router", &|raw| raw.remove("model.layers.0.mlp.gate.weight"), &[], "mlp.gate.weight`: missing");
    refused("fewer", &nothing, &[("num_experts", json!(7))], "shape [8, 32], expected [7, 32]");
    refused("chosen", &nothing, &[("num_experts_per_tok", json!(9))], "9 of 8 experts");
    refused("none", &nothing, &[("num_experts", json!(null))], "num_experts");
    refused(
        "dense",
        &nothing,
        &[("mlp_only_layers", json!([1]))],
        "model.layers.1.mlp.down_proj.weight`: missing",
    );
    refused("layers", &nothing, &[("mlp_only_layers", json!(["1"]))], "expected a list of integers");
    let rule = |rule: &str, expected: &str| {
        let output =
            make("quantize", &untied(), &home.path().join("out"), &["--bits", "4:32", "--layer", rule]);
        assert!(output.status.code() == Some(2) && stderr(&output).contains(expected), "{}", stderr(&output));
    };
    rule("*.mlp.gate=8", "`model.layers.0.mlp.gate` is a router");
    rule("*.experts.3.up_proj=8:32", "all experts of a block are one layer");
    // A dense model that calls itself one with experts.
    let model = home.path().join("bundled");
    copy_folder(&bundled(), &model);
    let mut config = json_file(&model.join("config.json"));
    config["model_type"] = json!("qwen3_moe");
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let output = make("convert", &model, &home.path().join("out"), &[]);
    assert!(
        output.status.code() == Some(1)
            && stderr(&output).contains("`model.layers.0.mlp.gate.weight`: missing"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_value_that_is_no_number_is_named_as_it_is_stored() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&mixed(), &model);
    let (shard, name) = ("model-00002-of-00002.safetensors", "model.layers.3.mlp.experts.4.up_proj.weight");
    let mut weights = RawCheckpoint::read(&model.join(shard));
    let (_, dtype, shape, data) = weights.get_mut(name);
    assert_eq!((dtype.as_str(), shape.len()), ("F32", 2));
    data[5 * shape[1] * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    weights.write(&model.join(shard));
    let tokens = token_file(home.path(), 4, 16);
    let text = ["--calibration", &tokens, "--samples", "4", "--sequence-length", "16", "--no-eval"];
    let gptq = [&["--bits", "4:32", "--rounding", "gptq"], &text[..]].concat();
    let measured = [&["--target-bpw", "5"], &text[..]].concat();
    let row = format!("`{name}`: row 5, columns 0 to 31: a value that is not finite in ");
    for (flags, expected) in [
        (&["--bits", "4:32"][..], &row),
        (&gptq, &row),
        (&measured, &format!("`{name}`: has a value that is NaN")),
    ] {
        let output = make("quantize", &model, &out, flags);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected.as_str()), "{flags:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(shard), "{flags:?}: {}", stderr(&output));
    }
}
