//! Codes that learn: end to end, block by block, and in floating-point modes.

use std::fs;
use std::path::Path;
use std::process::Command;

use mixbit::numerics::affine::unpack;

use super::common::{
    RawCheckpoint, bundled, interrupted, interrupted_after, json_file, make, mixbit, stderr, stdout,
    succeeded,
};
use super::{SMALL, divergence};

/// Text from which codes learn something in a few steps.
const LEARNED_FROM: [&str; 4] = ["--samples", "60", "--sequence-length", "96"];

/// Settings with which codes have learned something in a few steps.
const CODES: [&str; 4] = ["--learn", "codes", "--distill-code-rate", "0.02"];

#[test]
fn codes_learn_more_than_scales_alone() {
    let home = tempfile::tempdir().unwrap();
    let [rounded, scales, codes] = ["rounded", "scales", "codes"].map(|name| home.path().join(name));
    let rounding = ["--bits", "3", "--rounding", "gptq", "--samples", "200", "--sequence-length", "96"];
    let rounding = [&rounding[..], &["--no-eval"]].concat();
    let distill = [&rounding[..], &["--distill", "200"]].concat();
    succeeded(&make("quantize", &bundled(), &rounded, &rounding));
    succeeded(&make("quantize", &bundled(), &scales, &distill));
    let output = make("quantize", &bundled(), &codes, &[&distill[..], &CODES].concat());
    succeeded(&output);
    assert!(stdout(&output).contains("distilled codes, scales and biases"), "{}", stdout(&output));
    assert!(!stderr(&output).contains("codes learn from"), "text enough: {}", stderr(&output));
    let record = |model: &Path| json_file(&model.join("mixbit-report.json"))["distillation"].clone();
    let [of_scales, of_codes] = [&scales, &codes].map(|model| record(model));
    let kl = |record: &serde_json::Value, key: &str| record[key].as_f64().unwrap();
    let (before, after) = (kl(&of_codes, "kl_before"), kl(&of_codes, "kl_after"));
    assert!((before - kl(&of_scales, "kl_before")).abs() < 1e-12, "the same windows");
    assert!(after < 0.95 * kl(&of_scales, "kl_after"), "{of_codes} {of_scales}");
    assert!(of_scales.get("codes").is_none(), "{of_scales}");

    let tensors = |model: &Path| RawCheckpoint::read(&model.join("model.safetensors")).tensors;
    let [rounded_tensors, codes_tensors] = [&rounded, &codes].map(|model| tensors(model));
    let mut changed = 0;
    for (before, after) in rounded_tensors.iter().zip(&codes_tensors) {
        assert_eq!((&before.0, &before.1, &before.2), (&after.0, &after.1, &after.2));
        let is_quantized = rounded_tensors.iter().any(|other| {
            before.0.strip_suffix(".weight").is_some_and(|path| other.0 == format!("{path}.scales"))
        });
        let learns = is_quantized || before.0.ends_with(".scales") || before.0.ends_with(".biases");
        assert!(learns || before.3 == after.3, "{}", before.0);
        if is_quantized {
            let codes = |packed: &[u8]| -> Vec<u8> {
                let mut codes = vec![0; packed.len() * 8 / 3];
                unpack(packed, 3, &mut codes);
                codes
            };
            let pairs = codes(&before.3).into_iter().zip(codes(&after.3));
            changed += pairs.filter(|(before, after)| before != after).count();
        }
    }
    assert_eq!(of_codes["codes"]["changed"].as_u64().unwrap(), changed as u64);
    assert!(changed > 100, "{changed}");
    // What was measured on the way is what was written.
    assert!(divergence(&codes) < divergence(&rounded));
}

#[test]
fn what_learning_is_expected_to_leave_is_said_once() {
    let home = tempfile::tempdir().unwrap();
    let (table, out) = (home.path().join("table.json"), home.path().join("out"));
    let (model, table) = (bundled(), table.to_str().unwrap().to_owned());
    let text = ["--samples", "8", "--sequence-length", "96"];
    let analyze = ["analyze", "--model", model.to_str().unwrap(), "--out", &table];
    succeeded(&mixbit([&analyze[..], &text].concat()));
    let said = |steps: &str, further: &[&str]| {
        let flags = ["--target-bpw", "3.5", "--sensitivities", &table, "--dry-run", "--distill", steps];
        let output = make("quantize", &bundled(), &out, &[&flags[..], &text, further].concat());
        succeeded(&output);
        assert!(stdout(&output).contains(", before distillation"), "{}", stdout(&output));
        assert!(!stderr(&output).contains("once codes have learned"), "{}", stderr(&output));
        stdout(&output)
    };
    let line = "once codes have learned";
    let codes = said("300", &["--rounding", "gptq", "--learn", "codes"]);
    let numbers: Vec<f64> = codes
        .lines()
        .filter(|text| text.contains(line))
        .flat_map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()))
        .collect();
    assert!(
        matches!(numbers[..], [rounded, .., learned] if learned > 0.3 * rounded && learned < 0.7 * rounded),
        "{codes}"
    );
    let few = said("99", &["--rounding", "gptq", "--learn", "codes"]);
    assert!(!few.contains(line), "{few}");
    for further in [
        &["--rounding", "gptq"][..],
        &["--rounding", "search", "--learn", "codes"],
        &["--rounding", "gptq", "--learn", "codes", "--memory-limit", "1MB"],
    ] {
        let said = said("300", further);
        assert!(!said.contains(line), "{further:?}: {said}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    command.args(["quantize", "--hf-path", model.to_str().unwrap(), "--mlx-path", out.to_str().unwrap()]);
    command.args(["--target-bpw", "3.5", "--sensitivities", &table, "--distill", "300", "--no-eval"]);
    command.args(text).args(["--rounding", "gptq", "--learn", "codes"]);
    let output = interrupted_after(&mut command, "-INT", line);
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
}

#[test]
fn learned_codes_do_not_depend_on_threads() {
    let home = tempfile::tempdir().unwrap();
    let flags = ["--bits", "3", "--rounding", "search", "--no-eval", "--distill", "12"];
    let codes = ["--learn", "codes", "--distill-code-rate", "0.2"];
    let flags = [&flags[..], &SMALL, &codes].concat();
    let model = |threads: &str, more: &[&str]| {
        let out = home.path().join(format!("{threads}{}", more.concat()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
        command.args(["quantize", "--hf-path", bundled().to_str().unwrap(), "--mlx-path"]);
        command
            .arg(&out)
            .args(&flags)
            .args(more)
            .env("RAYON_NUM_THREADS", threads)
            .env_remove("MIXBIT_ENGINE_DIR");
        succeeded(&command.output().unwrap());
        fs::read(out.join("model.safetensors")).unwrap()
    };
    for more in [&[][..], &["--memory-limit", "1MB"]] {
        let [one, two, five] = ["1", "2", "5"].map(|threads| model(threads, more));
        assert!(one == two && one == five, "{more:?}");
    }
}

#[test]
fn resumed_learning_of_codes_gives_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let (whole, parts) = (home.path().join("whole"), home.path().join("parts"));
    let rounding = ["--bits", "3", "--rounding", "search", "--no-eval", "--distill", "60"];
    let flags = [&rounding[..], &SMALL, &CODES].concat();
    let output = make("quantize", &bundled(), &whole, &flags);
    succeeded(&output);
    assert!(stderr(&output).contains("codes learn from 384 tokens"), "little text: {}", stderr(&output));
    let arguments = |more: &[&str]| {
        let paths = ["quantize", "--hf-path", bundled().to_str().unwrap(), "--mlx-path"].map(str::to_owned);
        let flags = flags.iter().chain(more).map(ToString::to_string);
        paths.into_iter().chain([parts.to_str().unwrap().to_owned()]).chain(flags).collect::<Vec<_>>()
    };
    let partial = home.path().join("parts.partial");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    let output = interrupted(command.args(arguments(&[])), "-INT", || partial.exists());
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let mut scales = arguments(&["--resume"]);
    let learn = scales.iter().position(|argument| argument == "--learn").unwrap();
    scales.drain(learn..learn + CODES.len());
    let refused = mixbit(scales);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--learn was codes, now it is scales"), "{}", stderr(&refused));
    let output = mixbit(arguments(&["--resume", "--memory-limit", "1MB"]));
    succeeded(&output);
    assert!(stderr(&output).contains("of 60 steps taken already"), "{}", stderr(&output));
    let note = "codes learn all at once, as the interrupted run had begun";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    for file in ["model.safetensors", "mixbit-report.json"] {
        assert!(fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(), "{file}");
    }
    assert!(!partial.exists());
}

#[test]
fn blocks_that_have_learned_do_not_learn_again() {
    let home = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| home.path().join(name));
    let flags = ["--bits", "3", "--rounding", "search", "--no-eval", "--distill", "40"];
    let flags = [&flags[..], &LEARNED_FROM, &["--learn", "codes", "--distill-code-rate", "0.05"]].concat();
    let limit = ["--memory-limit", "1MB"];
    let output = make("quantize", &bundled(), &whole, &[&flags[..], &limit].concat());
    succeeded(&output);
    let note = "codes learn block by block only, scales end to end after them";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("learned codes block by block, in 40 steps each: "),
        "{}",
        stdout(&output)
    );
    let record = json_file(&whole.join("mixbit-report.json"))["distillation"].clone();
    let blocks = &record["blocks"];
    assert!(blocks["codes"]["changed"].as_u64().unwrap() > 100, "{record}");
    assert!(blocks["kl_after"].as_f64().unwrap() < 0.9 * blocks["kl_before"].as_f64().unwrap(), "{record}");
    assert_eq!(blocks["kl_after"], record["kl_before"], "scales go on from there");

    let blocks = home.path().join("parts.blocks");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
        command.args(["quantize", "--hf-path", bundled().to_str().unwrap(), "--mlx-path"]);
        command.arg(&parts).args(&flags).args(more);
        command
    };
    // A block of the model takes some 150 kB.
    let has_a_block = || blocks.metadata().is_ok_and(|file| file.len() > 50_000);
    let output = interrupted(&mut run(&limit), "-INT", has_a_block);
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("--resume resumes after"), "{}", stderr(&output));
    let refused = run(&[&limit[..], &["--resume", "--seed", "7"]].concat()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("other settings: --seed was 0, now it is 7"), "{}", stderr(&refused));
    let output = run(&["--resume", "--memory-limit", "9GB"]).output().unwrap();
    succeeded(&output);
    assert!(stderr(&output).contains("layers learned already"), "{}", stderr(&output));
    let note = "codes learn block by block, as the interrupted run had begun";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    for file in ["model.safetensors", "mixbit-report.json"] {
        assert!(fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(), "{file}");
    }
    assert!(!blocks.exists());
}

#[test]
fn codes_of_floating_point_modes_learn() {
    let home = tempfile::tempdir().unwrap();
    for mode in ["mxfp4", "nvfp4", "mxfp8"] {
        let [rounded, learned] =
            ["rounded", "learned"].map(|name| home.path().join(format!("{mode}-{name}")));
        succeeded(&make("quantize", &bundled(), &rounded, &["--mode", mode]));
        let codes = ["--learn", "codes"];
        let flags = [&["--mode", mode, "--distill", "90", "--no-eval"], &LEARNED_FROM[..], &codes].concat();
        // nvfp4 block by block, after which nothing is left to learn.
        let limit = if mode == "nvfp4" { &["--memory-limit", "1MB"][..] } else { &[] };
        let output = make("quantize", &bundled(), &learned, &[&flags, limit].concat());
        succeeded(&output);
        let said = stdout(&output);
        assert_eq!(said.contains("learned codes block by block"), mode == "nvfp4", "{said}");
        assert_eq!(said.contains("\ndistilled codes: "), mode != "nvfp4", "{said}");
        let tensors = |model: &Path| RawCheckpoint::read(&model.join("model.safetensors")).tensors;
        for (before, after) in tensors(&rounded).iter().zip(tensors(&learned)) {
            assert!(before.3 == after.3 || before.0.ends_with(".weight"), "{mode}: {} stays", before.0);
        }
        let [before, after] = [&rounded, &learned].map(|model| divergence(model));
        assert!(after < 0.98 * before, "{mode}: {after} {before}");
    }
}
