//! `mixbit quantize` and `inspect` as a user runs them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{RawCheckpoint, bundled, fixtures, json_file, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use mixbit::engine::decoder::model::Model;
use mixbit::engine::oracle;
use mixbit::engine::runtime::Engine;
use mixbit::models::source::SourceModel;
use mixbit::numerics::affine::{FloatType, Quantized, Rows, quantize};
use mixbit::numerics::dtype::Dtype;
use mixbit::numerics::quant::Quant;

fn quantized(from: &Path, out: &Path, target: &str) -> String {
    let output =
        make("quantize", from, out, &["--target-bpw", target, "--samples", "4", "--sequence-length", "64"]);
    succeeded(&output);
    stdout(&output)
}

fn inspected(model: &Path) -> Value {
    let output = mixbit(["inspect", "--json", model.to_str().unwrap()]);
    succeeded(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn the_target_is_kept_to_the_byte_and_everything_is_recorded() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let more = ["--target-bpw", "4.5", "--samples", "4", "--sequence-length", "64", "--rounding", "rtn"];
    let output = make("quantize", &bundled(), &out, &more);
    succeeded(&output);
    let text = stdout(&output);
    assert!(text.contains("predicted KL divergence"), "{text}");
    let config = json_file(&out.join("config.json"));
    assert_eq!(config["quantization"], config["quantization_config"]);
    let weights = RawCheckpoint::read(&out.join("model.safetensors"));
    let original = RawCheckpoint::read(&bundled().join("model.safetensors"));
    let find = |raw: &RawCheckpoint, name: &str| raw.tensors.iter().find(|t| t.0 == name).cloned();
    let (mut bits, mut count) = (0, 0);
    for (name, _, shape, data) in &original.tensors {
        let layer = name.strip_suffix(".weight").unwrap();
        if shape.len() == 1 || name.contains("embed") {
            assert_eq!(find(&weights, name).unwrap().1, "F16", "{name}");
            assert!(config["quantization"].get(layer).is_none());
            continue;
        }
        let part = |part: &str| find(&weights, &format!("{layer}.{part}")).unwrap().3;
        let entry = config["quantization"][layer].clone();
        let quant: Quant = serde_json::from_value(entry).unwrap();
        let rows = Rows::new(data, FloatType::F32, shape[1]).unwrap();
        let expected = quantize(rows, quant, FloatType::F16).unwrap();
        assert!(part("weight") == expected.packed, "{name}");
        assert!(part("scales") == expected.scales && part("biases") == expected.biases, "{name}");
        bits += 8 * (part("weight").len() + part("scales").len() + part("biases").len());
        count += shape.iter().product::<usize>();
    }
    let bpw = bits as f64 / count as f64;
    assert!(bpw <= 4.5 && bpw > 4.48, "{bpw}");
    let report = inspected(&out);
    assert!((report["bpw_quantized"].as_f64().unwrap() - bpw).abs() < 1e-9, "{report}");
    let data: usize = weights.tensors.iter().map(|t| t.3.len()).sum();
    assert_eq!(report["bytes"]["total"], data);
}

#[test]
fn the_quantized_model_runs_and_stays_close() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start().unwrap();
    let tokens: Vec<u32> = (0..48).map(|i| (i * 37 + 5) % 1000).collect();
    let logits = |path: &Path| {
        let source = SourceModel::open(path).unwrap();
        Model::load(&engine, &source, None).unwrap().logits(&tokens, None).unwrap()
    };
    let float = logits(&bundled());
    let error = |target: &str| {
        let out = home.path().join(target);
        quantized(&bundled(), &out, target);
        let found = logits(&out);
        found.iter().zip(&float).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / float.len() as f64
    };
    let errors = ["3", "4.5", "8"].map(error);
    assert!(errors[0] > errors[1] && errors[1] > errors[2] && errors[2] > 0.0, "{errors:?}");
    let out = home.path().join("4.5");
    let output = mixbit(["run", "--model", out.to_str().unwrap(), "--prompt", "Rust", "--max-tokens", "8"]);
    succeeded(&output);
    assert!(stderr(&output).contains("generation: "), "{}", stderr(&output));
}

#[test]
fn layers_that_arrive_quantized_pass_through() {
    let home = tempfile::tempdir().unwrap();
    let source = fixtures().join("golden/quantized-by-mlx-lm/llama4-text-mixed-bits");
    let out = home.path().join("out");
    quantized(&source, &out, "4.5");
    let (before, after) = (SourceModel::open(&source).unwrap(), SourceModel::open(&out).unwrap());
    for (layer, quant) in before.bitmap() {
        assert_eq!(after.bitmap().get(layer), Some(quant));
        for part in ["weight", "scales", "biases"] {
            let name = format!("{layer}.{part}");
            assert!(before.tensor(&name).unwrap().bytes() == after.tensor(&name).unwrap().bytes(), "{name}");
        }
    }
    assert!(after.bitmap().len() > before.bitmap().len());
    let uniform = fixtures().join("golden/quantized-by-mlx-lm/llama-uniform-4-bits");
    let again = make("quantize", &uniform, &home.path().join("again"), &["--target-bpw", "4.5"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("already quantized"), "{}", stderr(&again));
}

#[test]
fn rows_that_no_group_divides_stay_float() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    quantized(&fixtures().join("golden/llama-rows-172"), &out, "6");
    let report = inspected(&out);
    let by_path: BTreeMap<&str, &Value> = report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| (layer["path"].as_str().unwrap(), &layer["bits"]))
        .collect();
    assert!(by_path["model.layers.0.mlp.down_proj"].is_null(), "{by_path:?}");
    assert!(by_path["model.layers.0.mlp.up_proj"].is_u64(), "{by_path:?}");
    let output = mixbit(["inspect", out.to_str().unwrap()]);
    assert!(stdout(&output).contains(" bpw (without 2 layers whose rows no group size divides)"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let more = ["--target-bpw", "4", "--samples", "2", "--sequence-length", "32", "--dry-run"];
    let output = make("quantize", &bundled(), &out, &more);
    succeeded(&output);
    assert!(stdout(&output).contains("nothing was written") && !out.exists());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_table_is_measured_once_and_serves_every_target() {
    let home = tempfile::tempdir().unwrap();
    let table = home.path().join("table.json");
    let analyze = |more: &[&str]| {
        let mut arguments = vec!["analyze", "--model"];
        let (model, table) = (bundled(), table.to_str().unwrap().to_owned());
        let model = model.to_str().unwrap().to_owned();
        arguments.extend([
            model.as_str(),
            "--out",
            table.as_str(),
            "--samples",
            "4",
            "--sequence-length",
            "64",
        ]);
        arguments.extend(more);
        mixbit(arguments)
    };
    succeeded(&analyze(&[]));
    let measured = fs::read(&table).unwrap();
    assert!(stderr(&analyze(&[])).contains("--overwrite"));
    let resumed = analyze(&["--overwrite", "--resume"]);
    succeeded(&resumed);
    let note = "note: --resume has nothing to continue: no unfinished work in ";
    assert!(stderr(&resumed).contains(&format!("{note}{}.partial; starting", table.display())));
    assert!(fs::read(&table).unwrap() == measured, "the same measurement gives the same table");

    let out = home.path().join("out");
    let direct = home.path().join("direct");
    quantized(&bundled(), &direct, "4.5");
    let from_table = |target: &str, table: &Path, model: &Path| {
        make("quantize", model, &out, &[target, "--sensitivities", table.to_str().unwrap(), "--overwrite"])
    };
    succeeded(&from_table("--target-bpw=4.5", &table, &bundled()));
    assert_eq!(json_file(&out.join("config.json")), json_file(&direct.join("config.json")));
    let other = from_table("--target-bpw=4.5", &table, &fixtures().join("golden/llama4-text-tied"));
    let said = stderr(&other);
    assert!(said.contains("another model"), "{said}");
    let work = ["reachable", "calibration", "estimated"];
    assert!(work.iter().all(|word| !said.contains(word)), "noticed at once: {said}");
    let dry = ["--target-bpw=4.5", "--sensitivities", table.to_str().unwrap(), "--dry-run", "--overwrite"];
    let said = stderr(&make("quantize", &bundled(), &out, &dry));
    assert!(said.contains("for the whole job (a dry run does none of it): "), "{said}");

    succeeded(&from_table("--target-size=700KB", &table, &bundled()));
    let bytes = inspected(&out)["bytes"]["total"].as_u64().unwrap();
    assert!(bytes <= 700_000 && bytes > 695_000, "{bytes}");

    let curve = mixbit(["curve", "--csv", table.to_str().unwrap()]);
    succeeded(&curve);
    let losses: Vec<f64> = stdout(&curve)
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap().parse().unwrap())
        .collect();
    assert!(losses.len() > 20 && losses.is_sorted_by(|a, b| a >= b), "{losses:?}");
}

/// Every step lowers the KL divergence on held-out text.
#[test]
fn resumed_analysis_gives_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let (whole, parts) = (home.path().join("whole.json"), home.path().join("parts.json"));
    let arguments = |out: &Path, more: &[&str]| {
        let (model, out) = (bundled(), out.to_str().unwrap());
        let paths = ["analyze", "--model", model.to_str().unwrap(), "--out", out];
        let text = ["--samples", "32", "--sequence-length", "256"];
        [&paths[..], &text, more].concat().into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    succeeded(&mixbit(arguments(&whole, &[])));
    let journal = home.path().join("parts.json.partial");
    let lines = || fs::read(&journal).map_or(0, |text| text.split(|byte| *byte == b'\n').count());
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    let stopped = common::interrupted(command.args(arguments(&parts, &[])), "-INT", || lines() > 3);
    assert!(stderr(&stopped).contains("with --resume resumes after "), "{}", stderr(&stopped));
    let anew = mixbit(arguments(&parts, &[]));
    assert!(stderr(&anew).contains("--resume continues it, --overwrite starts anew"), "{}", stderr(&anew));
    let other = mixbit(arguments(&parts, &["--resume", "--method", "alignment"]));
    let expected = "--method was fisher-diagonal, now it is alignment at 4:64\n";
    assert!(stderr(&other).contains(expected), "{}", stderr(&other));
    let resumed = mixbit(arguments(&parts, &["--resume"]));
    succeeded(&resumed);
    assert!(stderr(&resumed).contains("of 28 layers measured already"), "{}", stderr(&resumed));
    assert!(fs::read(&whole).unwrap() == fs::read(&parts).unwrap());
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "the journal is gone");
}

#[test]
fn better_rounding_is_closer() {
    let home = tempfile::tempdir().unwrap();
    let measured = |rounding: &str, more: &[&str]| {
        let out = home.path().join(rounding);
        let settings = ["--samples", "32", "--sequence-length", "128", "--rounding", rounding, "--overwrite"];
        succeeded(&make("quantize", &bundled(), &out, &[&settings[..], more].concat()));
        let record = json_file(&out.join("mixbit-report.json"));
        assert_eq!(record["rounding"], rounding);
        record["evaluation"]["kl_mean"].as_f64().unwrap()
    };
    let rtn = measured("rtn", &["--target-bpw", "3.5"]);
    let search = measured("search", &["--target-bpw", "3.5"]);
    let gptq = measured("gptq", &["--target-bpw", "3.5"]);
    assert!(search < 0.95 * rtn && gptq < 0.75 * search, "{rtn} {search} {gptq}");
    let uniform = measured("gptq", &["--bits", "3"]);
    assert!(uniform < rtn * 2.0 && uniform > gptq, "{uniform}");
}

/// Without a text scale search weighs all inputs alike, and needs no engine.
#[test]
fn scale_search_does_without_a_text() {
    let home = tempfile::tempdir().unwrap();
    let run = |rounding: &str| {
        let out = home.path().join(rounding);
        succeeded(&make("quantize", &bundled(), &out, &["--bits", "3", "--rounding", rounding]));
        SourceModel::open(&out).unwrap()
    };
    let float = SourceModel::open(&bundled()).unwrap();
    let (rtn, search) = (run("rtn"), run("search"));
    let path = "model.layers.0.self_attn.q_proj";
    let error = |source: &SourceModel| {
        let part = |part: &str| source.tensor(&format!("{path}.{part}")).unwrap().bytes();
        let [packed, scales, biases] = ["weight", "scales", "biases"].map(part);
        let parts =
            mixbit::numerics::affine::Quantized { packed: &*packed, scales: &*scales, biases: &*biases };
        let name = format!("{path}.weight");
        let bytes = float.tensor(&name).unwrap().bytes();
        let weights: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut decoded = vec![0.0; weights.len()];
        mixbit::numerics::affine::dequantize(parts, Quant::affine(3, 64), FloatType::F16, &mut decoded)
            .unwrap();
        weights.iter().zip(decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    assert!(error(&search) < 0.9 * error(&rtn));
    assert_eq!(rtn.bitmap(), search.bitmap());
}

#[test]
fn uniform_bits_and_rules_by_hand() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let run = |more: &[&str]| make("quantize", &bundled(), &out, &[more, &["--overwrite"]].concat());
    succeeded(&run(&["--bits", "4", "--layer", "*.v_proj=8:32", "--layer", "*.3.*.v_proj=float"]));
    let source = SourceModel::open(&out).unwrap();
    let find = |layer: &str| source.bitmap().get(layer).copied();
    assert_eq!(find("model.layers.0.self_attn.v_proj"), Some(Quant::affine(8, 32)));
    assert_eq!(find("model.layers.3.self_attn.v_proj"), None);
    assert_eq!(find("model.layers.3.self_attn.q_proj"), Some(Quant::affine(4, 64)));
    for (more, expected) in [
        (&["--bits", "4", "--layer", "nothing=4"][..], "no float linear layer matches"),
        (&["--bits", "7"], "7 bits"),
        (&["--bits", "four"], "error: --bits: `four` is not a quantization setting"),
        (&["--bits", "4", "--layer", "*=4:48"], "48"),
        (
            &["--target-size", "10KB"],
            "a size of 10.0 kB cannot be reached: this model goes from 476.4 kB to 1.77 MB",
        ),
        (&["--target-size", "1GB"], "hint: the nearest is --target-size 1.77"),
        (
            &["--target-bpw", "5", "--candidates", "4"],
            "--candidates: a target of 5 bpw cannot be reached: every layer",
        ),
        (&["--target-size", "1MB", "--candidates", "4"], "--candidates: a size of 1.00 MB cannot be reached"),
        (
            &["--target-bpw", "5", "--candidates", "4,7"],
            "error: --candidates: MLX has no affine quantization to 7 bits",
        ),
        (&["--target-bpw", "5", "--layer", "*=4"], "--layer: a target of 5 bpw cannot be reached"),
    ] {
        let output = run(more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(stderr(&output).contains(expected), "{more:?}: {}", stderr(&output));
    }
    for more in [
        &["--bits", "4", "--target-bpw", "4"][..],
        &["--mode", "nvfp4", "--target-size", "700KB"],
        &["--group-size", "32"],
        &["--group-size", "32", "--target-bpw", "4"],
        &["--mode", "nvfp4", "--candidates", "4"],
        &["--mode", "int4"],
        &[],
    ] {
        assert_eq!(run(more).status.code(), Some(2), "{more:?}");
    }
}

#[test]
fn floating_point_modes_and_back_to_float() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start().unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 1000).collect();
    let logits = |path: &Path| {
        let source = SourceModel::open(path).unwrap();
        Model::load(&engine, &source, None).unwrap().logits(&tokens, None).unwrap()
    };
    let (quantized, float) = (home.path().join("quantized"), home.path().join("float"));
    for (flags, entry) in [
        (&["--mode", "mxfp4"][..], json!({"group_size": 32, "bits": 4, "mode": "mxfp4"})),
        (&["--bits", "8", "--mode", "mxfp8"], json!({"group_size": 32, "bits": 8, "mode": "mxfp8"})),
        (&["--bits", "nvfp4"], json!({"group_size": 16, "bits": 4, "mode": "nvfp4"})),
        (&["--bits", "5", "--group-size", "32"], json!({"group_size": 32, "bits": 5, "mode": "affine"})),
    ] {
        let more = [flags, &["--layer", "*.0.*.v_proj=4:16:nvfp4", "--overwrite"]].concat();
        succeeded(&make("quantize", &bundled(), &quantized, &more));
        let config = json_file(&quantized.join("config.json"));
        let mode = entry["mode"].as_str().unwrap();
        assert_eq!(config["quantization"]["model.layers.1.self_attn.q_proj"], entry, "{mode}");
        assert_eq!(config["quantization"]["model.layers.0.self_attn.v_proj"]["mode"], "nvfp4");
        let raw = RawCheckpoint::read(&quantized.join("model.safetensors"));
        let scales = raw.tensors.iter().filter(|tensor| tensor.0.ends_with(".scales"));
        let bytes = scales.filter(|tensor| tensor.1 == "U8").count();
        let biases = raw.tensors.iter().filter(|tensor| tensor.0.ends_with(".biases")).count();
        assert_eq!((bytes, biases), if mode == "affine" { (1, 27) } else { (28, 0) }, "{mode}");

        succeeded(&make("dequantize", &quantized, &float, &["--dtype", "float32", "--overwrite"]));
        let config = json_file(&float.join("config.json"));
        assert!(config.get("quantization").is_none() && config.get("quantization_config").is_none());
        assert_eq!(config["torch_dtype"], "float32");
        let (before, after) = (logits(&quantized), logits(&float));
        let largest = before.iter().fold(0_f32, |m, x| m.max(x.abs()));
        let error = before.iter().zip(&after).fold(0_f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(error < 1e-5 * largest, "{mode}: {error} of {largest}");
    }
    let again = make("dequantize", &float, &home.path().join("again"), &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("no layer is quantized"), "{}", stderr(&again));
}

#[test]
fn dequantized_weights_are_those_of_mlx() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start().unwrap();
    let (quantized, float) = (home.path().join("quantized"), home.path().join("float"));
    let layers =
        ["--layer", "*.1.*=mxfp4", "--layer", "*.2.*=mxfp8", "--layer", "*.3.*=nvfp4", "--overwrite"];
    for (name, dtype) in [("float16", Dtype::F16), ("bfloat16", Dtype::BF16), ("float32", Dtype::F32)] {
        let more = [&["--bits", "3", "--dtype", name][..], &layers].concat();
        succeeded(&make("quantize", &bundled(), &quantized, &more));
        // The dtype written is the model's own where none is given.
        succeeded(&make("dequantize", &quantized, &float, &["--overwrite"]));
        let (before, after) = (SourceModel::open(&quantized).unwrap(), SourceModel::open(&float).unwrap());
        for (layer, quant) in before.bitmap() {
            let part = |part: &str| {
                before.tensor(&format!("{layer}.{part}")).map(|tensor| tensor.bytes()).unwrap_or_default()
            };
            let [packed, scales, biases] = ["weight", "scales", "biases"].map(part);
            let packed = Quantized { packed: &*packed, scales: &*scales, biases: &*biases };
            let found = after.tensor(&format!("{layer}.weight")).unwrap();
            let shape = [found.shape[0], found.shape[1]];
            let expected = oracle::dequantize(&engine, packed, dtype, shape, *quant).unwrap();
            assert!(found.dtype == dtype && found.bytes() == expected, "{layer} {quant} {name}");
        }
    }
}

#[test]
fn floating_point_modes_are_candidates_too() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let more = ["--target-bpw", "6", "--candidates", "nvfp4,4:64,mxfp8,keep"];
    let text = make(
        "quantize",
        &bundled(),
        &out,
        &[&more[..], &["--samples", "4", "--sequence-length", "64"]].concat(),
    );
    succeeded(&text);
    let source = SourceModel::open(&out).unwrap();
    let modes: Vec<&str> = source.bitmap().values().map(|quant| quant.mode.name()).collect();
    assert!(modes.contains(&"mxfp8"), "{modes:?}");
    let bpw = inspected(&out)["bpw_quantized"].as_f64().unwrap();
    assert!(bpw <= 6.0 && bpw > 5.9, "{bpw}");
}

/// mlx-lm's AWQ lists every module that it leaves alone, norms among them.
#[test]
fn false_entries_of_other_modules_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("q");
    common::succeeded(&common::make("quantize", &common::bundled(), &out, &["--bits", "4"]));
    let before = common::stdout(&common::mixbit(["inspect".as_ref(), out.as_os_str()]));
    let path = out.join("config.json");
    let mut config = common::json_file(&path);
    config["quantization"]["model.layers.0.input_layernorm"] = false.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let output = common::mixbit(["inspect".as_ref(), out.as_os_str()]);
    common::succeeded(&output);
    assert_eq!(common::stdout(&output), before);
}
