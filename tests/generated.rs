//! `--calibration generated`: text that the model writes itself, kept beside the output.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{RawCheckpoint, bundled, copy_folder, make, mixbit, stderr, stdout, succeeded};

const SMALL: [&str; 9] =
    ["--bits", "3", "--rounding", "gptq", "--no-eval", "--samples", "8", "--sequence-length", "64"];

fn quantize(out: &Path, more: &[&str]) -> Output {
    make("quantize", &bundled(), out, &[&SMALL[..], more].concat())
}

/// Files of generated text in a folder.
fn generated(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().contains(".generated-")).collect();
    files.sort();
    files
}

/// Token ids of a file, whose header says so many rows of 64.
fn tokens(file: &Path, rows: usize) -> Vec<u32> {
    let bytes = fs::read(file).unwrap();
    let data = bytes.len() - rows * 64 * 4;
    let header = String::from_utf8_lossy(&bytes[..data]).into_owned();
    assert!(
        header.contains(&format!("'descr': '<u4', 'fortran_order': False, 'shape': ({rows}, 64,)")),
        "{header}"
    );
    bytes[data..].chunks(4).map(|id| u32::from_le_bytes(id.try_into().unwrap())).collect()
}

#[test]
fn text_is_generated_once_and_is_the_seeds() {
    let home = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        fs::create_dir(home.path().join(name)).unwrap();
        home.path().join(name)
    };
    let (first, second) = (folder("first"), folder("second"));
    let asked = ["--calibration", "generated:2000"];
    let output = quantize(&first.join("out"), &asked);
    succeeded(&output);
    assert!(
        stderr(&output).contains("2048 tokens that the model has generated, kept in"),
        "{}",
        stderr(&output)
    );
    let [file] = &generated(&first)[..] else { panic!("{:?}", generated(&first)) };
    let ids = tokens(file, 32);
    assert!(ids.chunks(64).all(|text| text[0] == 0), "every text begins with BOS");
    let of_a_text = |index: usize| &ids[index * 64..(index + 1) * 64];
    assert!((1..32).all(|index| of_a_text(index) != of_a_text(index - 1)));
    // With one thread, in another folder: the same bytes.
    let mut alone = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    alone.args(["quantize", "--hf-path"]).arg(bundled()).arg("--mlx-path").arg(second.join("out"));
    alone.args(SMALL).args(asked).env("RAYON_NUM_THREADS", "1").env_remove("MIXBIT_ENGINE_DIR");
    succeeded(&alone.output().unwrap());
    let other = generated(&second);
    assert_eq!(file.file_name(), other[0].file_name());
    assert!(fs::read(file).unwrap() == fs::read(&other[0]).unwrap());
    let weights = |folder: &Path| fs::read(folder.join("out/model.safetensors")).unwrap();
    assert!(weights(&first) == weights(&second));
    // Again: nothing is generated. Another seed: another text beside the first.
    let written = fs::metadata(file).unwrap().modified().unwrap();
    let again = quantize(&first.join("out"), &[&asked[..], &["--overwrite"]].concat());
    succeeded(&again);
    assert!(stderr(&again).contains("generated before"), "{}", stderr(&again));
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), written);
    let dry = quantize(&first.join("out"), &[&asked[..], &["--overwrite", "--dry-run"]].concat());
    succeeded(&dry);
    assert!(stdout(&dry).ends_with("nothing was written\n"), "{}", stdout(&dry));
    fs::remove_file(file).unwrap();
    let dry = quantize(&first.join("out"), &[&asked[..], &["--overwrite", "--dry-run"]].concat());
    succeeded(&dry);
    let last =
        format!("nothing was written but the generated calibration text, kept in {}\n", file.display());
    assert!(stdout(&dry).ends_with(&last), "{}", stdout(&dry));
    succeeded(&quantize(&first.join("out"), &[&asked[..], &["--overwrite", "--seed", "1"]].concat()));
    let files = generated(&first);
    assert_eq!(files.len(), 2);
    assert!(tokens(&files[0], 32) != tokens(&files[1], 32));
}

#[test]
fn the_model_finds_its_own_text_likely() {
    let home = tempfile::tempdir().unwrap();
    succeeded(&quantize(&home.path().join("out"), &["--calibration", "generated:8192"]));
    let files = generated(home.path());
    let perplexity = |data: &str| -> f64 {
        let model = bundled();
        let output =
            mixbit(["eval", "--model", model.to_str().unwrap(), "--sequence-length", "64", "--data", data]);
        succeeded(&output);
        let out = stdout(&output);
        let line =
            out.lines().find(|line| line.starts_with("PPL") || line.starts_with("perplexity")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let licence = concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-APACHE");
    let (own, others) = (perplexity(files[0].to_str().unwrap()), perplexity(licence));
    // Sampled from the whole distribution: neither a repetition nor noise, which would have some hundreds.
    assert!(own > 5.0 && own < others, "{own} {others}");
}

#[test]
fn analyze_keeps_its_text_too() {
    let home = tempfile::tempdir().unwrap();
    let (table, model) = (home.path().join("table.json"), bundled());
    let output = mixbit([
        "analyze",
        "--model",
        model.to_str().unwrap(),
        "--out",
        table.to_str().unwrap(),
        "--rounding",
        "rtn",
        "--candidates",
        "3,4 x 64",
        "--calibration",
        "generated",
        "--samples",
        "8",
        "--sequence-length",
        "64",
    ]);
    succeeded(&output);
    // As many as the samples need, and texts to hold out.
    let files = generated(home.path());
    assert_eq!(files.len(), 1);
    tokens(&files[0], 8 + 1 + 32);
}

#[test]
fn what_cannot_generate_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (out, without) = (home.path().join("out"), home.path().join("without"));
    for (text, expected) in [
        ("generated:many", "`many` is no number of tokens from 1 to"),
        ("generated:0", "`0` is no number of tokens"),
        ("generated:", "`` is no number of tokens"),
        ("generated-text.txt", "generated-text.txt"),
    ] {
        let output = quantize(&out, &["--calibration", text]);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(expected), "{text}: {}", stderr(&output));
    }
    let held_out = ["--bits", "3", "--rounding", "gptq", "--samples", "8", "--sequence-length", "64"];
    for (flags, text, expected, enough) in [
        (&SMALL[..], "generated:448", "generated:448 makes 448 tokens; 8 sequences of 64 need 512\n", "512"),
        (
            &held_out,
            "generated:512",
            "8 sequences of 64 need 576, some of them held out for evaluation\n",
            "576",
        ),
        (&["--target-bpw", "4"], "generated:9", "makes 512 tokens; 1 sequence of 512 needs 1024,", "1024 or"),
        (
            &["--target-bpw", "4", "--distill", "2"],
            "generated:1024",
            "2 sequences of 512 need 1536,",
            "1536 or",
        ),
    ] {
        let output = make("quantize", &bundled(), &out, &[flags, &["--calibration", text]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("give --calibration generated:{enough}")));
        assert!(generated(home.path()).is_empty());
    }
    let measured = ["--target-bpw", "4", "--sequence-length", "64", "--sensitivity-samples", "29"];
    for more in [
        &["--calibration", "generated", "--samples", "28"][..],
        &["--calibration", "generated:2048"],
        // Four of the 32 sequences tell which steps help.
        &["--calibration", "generated:2304", "--distill", "2"],
    ] {
        let output = make("quantize", &bundled(), &out, &[&measured, more].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let expected = "--sensitivity-samples asks for 29 of 28 sequences";
        assert!(stderr(&output).contains(expected), "{more:?}: {}", stderr(&output));
        assert!(generated(home.path()).is_empty(), "{more:?}");
    }
    let broken = home.path().join("broken");
    copy_folder(&bundled(), &broken);
    let mut raw = RawCheckpoint::read(&broken.join("model.safetensors"));
    raw.get_mut("model.layers.1.feed_forward.gate_proj.weight").3[..4]
        .copy_from_slice(&f32::NAN.to_le_bytes());
    raw.write(&broken.join("model.safetensors"));
    let output = make("quantize", &broken, &out, &[&SMALL[..], &["--calibration", "generated"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let named = "1.feed_forward.gate_proj.weight`: has a value that is NaN or infinite";
    assert!(stderr(&output).contains(named), "{}", stderr(&output));
    assert!(generated(home.path()).is_empty());
    copy_folder(&bundled(), &without);
    fs::remove_file(without.join("tokenizer.json")).unwrap();
    let output = make("quantize", &without, &out, &[&SMALL[..], &["--calibration", "generated"]].concat());
    assert!(!output.status.success() && stderr(&output).contains("no tokenizer"), "{}", stderr(&output));
    assert!(generated(home.path()).is_empty() && !out.exists());
}
