//! `mixbit quantize --refine` as a user runs it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{bundled, json_file, make, stderr, stdout, succeeded};

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
        assert!(stdout(&output).contains(&format!("of {} rounds kept", rounds.len())), "{}", stdout(&output));
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
    for bad in ["0", "-1", "x"] {
        assert_eq!(run(&["--target-bpw", "4", "--refine", bad]).status.code(), Some(2), "{bad}");
    }
    assert!(!out.exists());
}
