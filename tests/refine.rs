//! `mixbit quantize --refine` as a user runs it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{bundled, json_file, make, mixbit, stderr, stdout, succeeded};

const SMALL: [&str; 4] = ["--samples", "8", "--sequence-length", "48"];

#[test]
fn rounds_are_kept_only_where_the_measured_divergence_falls() {
    let home = tempfile::tempdir().unwrap();
    for (target, rounding) in [("2.6", "rtn"), ("3.2", "gptq")] {
        let out = home.path().join(rounding);
        let more = ["--target-bpw", target, "--rounding", rounding, "--refine", "3", "--no-eval"];
        let output = make("quantize", &bundled(), &out, &[&more[..], &SMALL].concat());
        succeeded(&output);
        let report = json_file(&out.join("mixbit-report.json"));
        let rounds = report["refinement"]["rounds"].as_array().unwrap();
        assert!(!rounds.is_empty() && rounds.len() <= 3, "{report}");
        let mut kl = rounds[0]["kl_before"].as_f64().unwrap();
        for round in rounds {
            assert_eq!(round["kl_before"].as_f64().unwrap().to_bits(), kl.to_bits(), "{rounds:?}");
            let fall = round["kl_after"].as_f64().map(|after| kl - after);
            let pays = fall.is_some_and(|fall| fall > round["stderr"].as_f64().unwrap());
            assert_eq!(round["kept"], pays, "{round}");
            if pays {
                kl = round["kl_after"].as_f64().unwrap();
            }
        }
        let noun = if rounds.len() == 1 { "round" } else { "rounds" };
        let said = format!("of {} {noun} kept", rounds.len());
        assert!(stdout(&output).contains(&said), "{}", stdout(&output));
        let kept = rounds.iter().any(|round| round["kept"] == true);
        assert_eq!(report["predicted_kl"].is_null(), kept, "what was predicted goes for other bits");
        assert_eq!(stdout(&output).contains("predicted KL"), !kept, "{}", stdout(&output));
        let bpw = report["bpw_quantized"].as_f64().unwrap();
        assert!(bpw <= target.parse().unwrap(), "{bpw} of {target}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let run = |out: &Path| {
        let more =
            ["--target-bpw", "2.6", "--rounding", "search", "--refine", "1", "--distill", "10", "--no-eval"];
        succeeded(&make("quantize", &bundled(), out, &[&more[..], &SMALL].concat()));
        ["model.safetensors", "config.json", "mixbit-report.json"]
            .map(|file| fs::read(out.join(file)).unwrap())
    };
    assert!(run(&home.path().join("a")) == run(&home.path().join("b")));
}

#[test]
fn fixed_bits_leave_nothing_to_move() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let run = |more: &[&str]| make("quantize", &bundled(), &out, more);
    let fixed = run(&["--bits", "4", "--refine", "1"]);
    assert_eq!(fixed.status.code(), Some(2));
    assert!(stderr(&fixed).contains("all bits are fixed"), "{}", stderr(&fixed));
    for bad in ["-1", "x"] {
        assert_eq!(run(&["--target-bpw", "4", "--refine", bad]).status.code(), Some(2), "{bad}");
    }
    assert!(!out.exists());
}

/// Flags with which a round is kept: sensitivities of the first order leave something to gain.
const GAIN: [&str; 8] =
    ["--target-bpw", "3", "--method", "alignment", "--samples", "16", "--sequence-length", "96"];
/// Flags with which no round is kept.
const NO_GAIN: [&str; 6] = ["--target-bpw", "3.2", "--samples", "8", "--sequence-length", "48"];

fn arguments(out: &Path, flags: &[&str], more: &[&str]) -> Vec<String> {
    let (from, to) = (bundled(), out.to_str().unwrap());
    let paths = ["quantize", "--hf-path", from.to_str().unwrap(), "--mlx-path", to];
    let tuning = ["--refine", "3", "--distill", "10", "--no-eval"];
    [&paths[..], &tuning, flags, more].concat().into_iter().map(str::to_owned).collect()
}

/// Starts `quantize` and ends it with `signal` as soon as a round is done.
fn interrupted(out: &Path, flags: &[&str], signal: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    command.args(arguments(out, flags, &[]));
    common::interrupted(&mut command, signal, || out.with_extension("refining").exists())
}

#[test]
fn resumed_refinement_gives_the_same_bytes() {
    for (size, rounding, signal) in
        [(&GAIN[..], "gptq", "-KILL"), (&NO_GAIN, "gptq", "-INT"), (&GAIN, "search", "-INT")]
    {
        let flags = &[size, &["--rounding", rounding]].concat();
        let home = tempfile::tempdir().unwrap();
        let (whole, parts) = (home.path().join("whole"), home.path().join("parts"));
        succeeded(&mixbit(arguments(&whole, flags, &[])));
        let stopped = interrupted(&parts, flags, signal);
        assert!(!parts.exists());
        if signal == "-INT" {
            assert_eq!(stopped.status.code(), Some(130), "{}", stderr(&stopped));
            assert!(stderr(&stopped).contains("the same command with --resume resumes after "));
        }
        let anew = mixbit(arguments(&parts, flags, &[]));
        assert_eq!(anew.status.code(), Some(1));
        assert!(stderr(&anew).contains("--overwrite starts anew"), "{}", stderr(&anew));
        let refining = home.path().join("parts.refining");
        let before = fs::read(&refining).unwrap();
        let entry: serde_json::Value =
            serde_json::from_slice(before.split(|byte| *byte == b'\n').nth(1).unwrap()).unwrap();
        let done = &entry["entry"]["done"];
        assert_eq!(done[0]["kept"], size == GAIN, "{done}");
        let done = done.as_array().unwrap().len();
        let mut other = arguments(&parts, flags, &["--resume"]);
        let at = other.iter().position(|argument| argument == "--refine").unwrap();
        "4".clone_into(&mut other[at + 1]);
        let other = mixbit(other);
        assert!(stderr(&other).contains("--refine was 3, now it is 4"), "{}", stderr(&other));
        assert!(!stderr(&other).contains("estimated"), "noticed at once: {}", stderr(&other));
        assert!(fs::read(&refining).unwrap() == before, "nothing is lost");
        let edited = String::from_utf8(before.clone()).unwrap().replace("\"swaps\":", "\"swaps\":1");
        fs::write(&refining, edited).unwrap();
        let refused = mixbit(arguments(&parts, flags, &["--resume"]));
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("parts.refining: damaged: its SHA-256"), "{}", stderr(&refused));
        fs::write(&refining, before).unwrap();
        let resumed = mixbit(arguments(&parts, flags, &["--resume"]));
        succeeded(&resumed);
        let said = stderr(&resumed);
        assert!(said.contains(&format!("resuming: {done} round")), "{said}");
        assert!((1..=done).all(|round| !said.contains(&format!("refining, round {round} of"))), "{said}");
        for file in ["model.safetensors", "config.json", "mixbit-report.json"] {
            assert!(fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(), "{file}");
        }
        let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left = names.filter(|name| name.to_str().unwrap().starts_with("parts"));
        assert_eq!(left.collect::<Vec<_>>(), ["parts"], "what was kept is gone");
    }
}
