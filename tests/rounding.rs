//! `mixbit quantize --rounding gptq`: layers that error feedback could not improve are named, and an interrupted run resumes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{RawCheckpoint, bundled, copy_folder, json_file, make, mixbit, stderr, succeeded};
use serde_json::Value;

#[test]
fn rows_that_feedback_does_not_improve_are_counted() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&bundled(), &model);
    let file = model.join("model.safetensors");
    let mut weights = RawCheckpoint::read(&file);
    // Of what goes into the first block one value is not 0 for each token, so that no two go together: q, k and v have
    // nothing to feed back.
    let (_, _, shape, data) = weights.get_mut("model.embed_tokens.weight");
    for (token, row) in data.chunks_mut(4 * shape[1]).enumerate() {
        row.fill(0);
        row[4 * (token % shape[1])..][..4].copy_from_slice(&1.0f32.to_le_bytes());
    }
    weights.write(&file);
    let rounded = |from: &Path, out: &Path| {
        let flags =
            ["--bits", "3", "--rounding", "gptq", "--samples", "8", "--sequence-length", "48", "--no-eval"];
        let output = make("quantize", from, out, &flags);
        succeeded(&output);
        (stderr(&output), json_file(&out.join("mixbit-report.json"))["feedback"].take())
    };
    let searched = |feedback: &Value, layer: &str| feedback["searched_rows"][layer].as_u64().unwrap_or(0);
    let layer = "model.layers.0.self_attn.q_proj";
    let (said, feedback) = rounded(&model, &out);
    assert!(searched(&feedback, layer) > 0, "{feedback}");
    let layers = feedback["searched_rows"].as_object().unwrap();
    let rows: u64 = layers.values().map(|rows| rows.as_u64().unwrap()).sum();
    let expected = format!("{rows} of {} rows in {} layers are as scale", feedback["rows"], layers.len());
    assert!(said.contains(&format!("error feedback: {expected}")), "{said}\n{expected}");
    let page = home.path().join("page.html");
    succeeded(&mixbit(["report", out.to_str().unwrap(), "--out", page.to_str().unwrap()]));
    assert!(fs::read_to_string(page).unwrap().contains(&expected));

    let (_, feedback) = rounded(&bundled(), &home.path().join("plain"));
    assert_eq!(searched(&feedback, layer), 0, "{feedback}");
    assert!(feedback["rows"].as_u64().unwrap() > rows);
}

const FLAGS: [&str; 9] =
    ["--bits", "3", "--rounding", "gptq", "--samples", "48", "--sequence-length", "256", "--dtype"];

fn quantize(out: &Path, more: &[&str]) -> Output {
    make("quantize", &bundled(), out, &[&FLAGS[..], &["float16"], more].concat())
}

/// Runs `quantize` until some layers are done, and ends it with `signal`.
fn interrupted(out: &Path, signal: &str) -> Output {
    let (from, to) = (bundled(), out.to_str().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    command.args(["quantize", "--hf-path", from.to_str().unwrap(), "--mlx-path", to]);
    let journal = out.with_file_name("parts.rounding");
    let has_layers = || fs::metadata(&journal).is_ok_and(|file| file.len() > 4096);
    common::interrupted(command.args(FLAGS).arg("float16"), signal, has_layers)
}

#[test]
fn resumed_rounding_gives_the_same_bytes() {
    for signal in ["-INT", "-KILL"] {
        let home = tempfile::tempdir().unwrap();
        let (whole, parts) = (home.path().join("whole"), home.path().join("parts"));
        succeeded(&quantize(&whole, &[]));
        let stopped = interrupted(&parts, signal);
        assert!(!parts.exists());
        if signal == "-INT" {
            assert_eq!(stopped.status.code(), Some(130), "{}", stderr(&stopped));
            assert!(stderr(&stopped).contains("with --resume resumes after "), "{}", stderr(&stopped));
            let mut left: Vec<_> =
                fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["parts.rounding", "whole"]);
        }
        let anew = quantize(&parts, &[]);
        assert_eq!(anew.status.code(), Some(1));
        assert!(stderr(&anew).contains("--overwrite starts anew"), "{}", stderr(&anew));
        for (more, expected) in [
            (
                &["--samples", "47"][..],
                "other settings: --samples was 48, now it is 47; the calibration text was ",
            ),
            (&["--dtype", "bfloat16"], "other settings: --dtype was float16, now it is bfloat16\n"),
            (&["--bits", "4"], "other settings: what layers become was "),
        ] {
            let mut flags = [&FLAGS[..], &["float16"]].concat();
            let at = flags.iter().position(|flag| *flag == more[0]).unwrap();
            flags[at + 1] = more[1];
            let other = make("quantize", &bundled(), &parts, &[&flags[..], &["--resume"]].concat());
            assert_eq!(other.status.code(), Some(1));
            assert!(stderr(&other).contains(expected), "{}", stderr(&other));
        }
        let resumed = quantize(&parts, &["--resume"]);
        succeeded(&resumed);
        assert!(stderr(&resumed).contains(" rounded already"), "{}", stderr(&resumed));
        let names: Vec<String> = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "parts" && name != "whole")
            .collect();
        // What a killed run has left stays, and is named.
        assert!(names.iter().all(|name| signal == "-KILL" && name.ends_with(".partial")), "{names:?}");
        assert!(names.iter().all(|name| stderr(&resumed).contains(name)), "{names:?}");
        for file in ["model.safetensors", "mixbit-report.json"] {
            assert!(fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(), "{file}");
        }
        assert!(!home.path().join("parts.rounding").exists());
    }
}

/// The limit lets the rounded layers pass, and not the model.
#[test]
#[cfg(unix)]
fn a_full_disk_keeps_what_is_rounded() {
    let home = tempfile::tempdir().unwrap();
    let (program, model) = (env!("CARGO_BIN_EXE_mixbit"), bundled());
    let flags = "--bits 3 --rounding gptq --samples 4 --sequence-length 32 --no-eval";
    let command = format!("{program} quantize --hf-path {} --mlx-path out {flags}", model.display());
    let script = format!("ulimit -f 800; exec {command}");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&home).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let hint = said.lines().last().unwrap();
    assert!(hint.contains("ulimit -f") && hint.contains("is kept in out.rounding"), "{said}");
    assert!(hint.contains("the same command with --resume resumes after it"), "{said}");
    let resumed = format!("{command} --resume");
    let output = Command::new("sh").args(["-c", &resumed]).current_dir(&home).output().unwrap();
    succeeded(&output);
    assert!(stderr(&output).contains(" rounded already"), "{}", stderr(&output));
}

#[test]
fn resuming_in_place_of_a_model_needs_both_flags() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("parts");
    let flags = ["--bits", "4", "--no-eval"];
    succeeded(&make("quantize", &bundled(), &out, &flags));
    let output = make("quantize", &bundled(), &out, &[&flags[..], &["--resume"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let expected = "already exists\nhint: --overwrite beside --resume continues the unfinished work";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

#[test]
fn an_error_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&bundled(), &model);
    let file = model.join("model.safetensors");
    let mut weights = RawCheckpoint::read(&file);
    weights.get_mut("model.layers.2.feed_forward.down_proj.weight").3[..4]
        .copy_from_slice(&f32::NAN.to_le_bytes());
    weights.write(&file);
    let flags = ["--bits", "3", "--rounding", "gptq", "--samples", "4", "--sequence-length", "32"];
    let output = make("quantize", &model, &out, &flags);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["model"]);
}

/// Rows come in parts, and bad values are named by their place in the whole matrix.
#[test]
fn an_error_names_the_row() {
    const ROWS: usize = 8256;
    const BAD: usize = 8200;
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (home.path().join("model"), home.path().join("out"));
    copy_folder(&bundled(), &model);
    let mut config = json_file(&model.join("config.json"));
    for key in ["intermediate_size", "intermediate_size_mlp"] {
        config[key] = ROWS.into();
    }
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let file = model.join("model.safetensors");
    let mut weights = RawCheckpoint::read(&file);
    for (name, _, shape, data) in &mut weights.tensors {
        if name.contains("feed_forward") {
            let width = shape.iter_mut().find(|width| **width == 384).unwrap();
            *width = ROWS;
            *data = vec![0; shape.iter().product::<usize>() * 4];
        }
    }
    let name = "model.layers.2.feed_forward.gate_proj.weight";
    weights.get_mut(name).3[BAD * 128 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    weights.write(&file);
    for rounding in ["rtn", "search"] {
        let output = make("quantize", &model, &out, &["--bits", "4", "--rounding", rounding]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let expected = format!("`{name}`: row {BAD}, columns 0 to 63: a value that is not finite in ");
        assert!(stderr(&output).contains(&expected), "{rounding}: {}", stderr(&output));
        let cause = "; the tensor has values that are NaN or infinite\n";
        assert!(stderr(&output).contains(cause), "{rounding}: {}", stderr(&output));
    }
}

/// The bundled model with logits so large that most texts leave it no perplexity: rounding goes well, measuring does not.
fn overconfident(home: &Path) -> PathBuf {
    let model = home.join("model");
    copy_folder(&bundled(), &model);
    let file = model.join("model.safetensors");
    let mut weights = RawCheckpoint::read(&file);
    let (_, dtype, _, data) = weights.get_mut("model.norm.weight");
    assert_eq!(dtype, "F32");
    for value in data.chunks_exact_mut(4) {
        let larger = 2000.0 * f32::from_le_bytes(value.try_into().unwrap());
        value.copy_from_slice(&larger.to_le_bytes());
    }
    weights.write(&file);
    model
}

#[test]
fn what_is_rounded_is_kept_where_only_measuring_fails() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    for (given, hint) in [
        (&[][..], "with --resume and --no-eval writes the result"),
        (
            &["--eval-data", text],
            "with --resume and other --eval-data, or --no-eval in its place, writes the result",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let (model, out, kept) =
            (overconfident(home.path()), home.path().join("out"), home.path().join("out.rounding"));
        let run = |more: &[&str]| make("quantize", &model, &out, &[&FLAGS[..], &["float32"], more].concat());
        let failed = run(given);
        assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
        assert!(stderr(&failed).contains("perplexity on this text is not finite"), "{}", stderr(&failed));
        assert!(stderr(&failed).contains(hint), "{}", stderr(&failed));
        assert!(kept.exists() && !out.exists());
        let resumed = run(&["--no-eval", "--resume"]);
        succeeded(&resumed);
        assert!(stderr(&resumed).contains("resuming: 28 layers rounded already"), "{}", stderr(&resumed));
        assert!(out.exists() && !kept.exists());
    }
}

#[test]
fn texts_to_measure_on_are_looked_at_before_the_work() {
    let home = tempfile::tempdir().unwrap();
    let (out, short) = (home.path().join("out"), home.path().join("short.txt"));
    fs::write(&short, "a").unwrap();
    let output = quantize(&out, &["--eval-data", short.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("at least 3 are needed"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("estimated"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}
