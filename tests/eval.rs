//! `mixbit eval`, and what `quantize` measures of its own result, as a user runs them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{
    RawCheckpoint, bundled, copy_folder, fixtures, json_file, make, mixbit, stderr, stdout, succeeded,
};
use serde_json::{Value, json};

const TEXT: &str = "A trait tells the compiler about functionality a type has and can share with other types. \
    We can use traits to define shared behaviour in an abstract way, and trait bounds to say that a generic type \
    can be any type that has certain behaviour. This is how the standard library does it, too.\n";

fn text(home: &Path) -> String {
    let path = home.join("text.txt");
    fs::write(&path, TEXT.repeat(4)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn eval(model: &Path, data: &str, more: &[&str]) -> std::process::Output {
    let base = ["eval", "--model", model.to_str().unwrap(), "--data", data, "--sequence-length", "48"];
    mixbit([&base[..], more].concat())
}

fn figures(model: &Path, data: &str, more: &[&str]) -> Value {
    let output = eval(model, data, &[more, &["--json", "-"]].concat());
    succeeded(&output);
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn uniform(home: &Path, bits: &str) -> std::path::PathBuf {
    let out = home.join(format!("q{bits}"));
    succeeded(&make("quantize", &bundled(), &out, &["--bits", bits]));
    out
}

#[test]
fn fewer_bits_are_further_away() {
    let home = tempfile::tempdir().unwrap();
    let (data, model) = (text(home.path()), bundled());
    let reference = ["--reference", model.to_str().unwrap()];
    let found = ["3", "4", "8"].map(|bits| figures(&uniform(home.path(), bits), &data, &reference));
    let key = |index: usize, key: &str| found[index][key].as_f64().unwrap();
    assert!(key(0, "kl_mean") > 3.0 * key(1, "kl_mean") && key(1, "kl_mean") > 20.0 * key(2, "kl_mean"));
    assert!(key(0, "nll_correlation") > 0.5 && key(2, "nll_correlation") <= 1.0, "a share, not percent");
    assert!(key(2, "same_top") > key(0, "same_top") && key(2, "same_top") <= 1.0);
    let alone = figures(&bundled(), &data, &[]);
    assert!((alone["perplexity"].as_f64().unwrap() / key(0, "reference_perplexity") - 1.0).abs() < 1e-6);
    assert!(alone.get("kl_mean").is_none());
    let itself = figures(&bundled(), &data, &reference);
    assert!(itself["kl_max"].as_f64().unwrap() < 1e-6 && itself["same_top"] == 1.0, "{itself}");
    let batched = figures(&bundled(), &data, &["--batch-size", "7", "--activation-memory", "2kB"]);
    assert!(
        (batched["perplexity"].as_f64().unwrap() / alone["perplexity"].as_f64().unwrap() - 1.0).abs() < 1e-5
    );
}

#[test]
fn a_kept_reference_gives_the_same_figures() {
    let home = tempfile::tempdir().unwrap();
    let (data, model) = (text(home.path()), bundled());
    let quantized = uniform(home.path(), "3");
    let kept_path = home.path().join("reference");
    let kept = kept_path.to_str().unwrap();
    let direct =
        figures(&quantized, &data, &["--reference", model.to_str().unwrap(), "--save-reference", kept]);
    let again = figures(&quantized, &data, &["--reference", kept]);
    for key in ["kl_mean", "reference_perplexity", "perplexity"] {
        let (a, b) = (direct[key].as_f64().unwrap(), again[key].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-3, "{key}: {a} {b}");
    }
    let other = eval(&quantized, &data, &["--reference", kept, "--max-tokens", "96"]);
    assert!(stderr(&other).contains("other tokens"), "{}", stderr(&other));
    let not_one = eval(&quantized, &data, &["--reference", &data]);
    assert!(stderr(&not_one).contains("--save-reference"), "{}", stderr(&not_one));
    let plain = home.path().join("plain");
    fs::write(&plain, "").unwrap();
    let permissions = |path: &Path| fs::metadata(path).unwrap().permissions();
    assert_eq!(permissions(&kept_path), permissions(&plain), "those that the umask gives");
    let bytes = fs::read(&kept_path).unwrap();
    fs::write(&kept_path, &bytes[..bytes.len() - 7]).unwrap();
    let cut = eval(&quantized, &data, &["--reference", kept]);
    let (whole, left) = (bytes.len(), bytes.len() - 7);
    let expected = format!("by its header it has {whole} bytes, {left} are there\nhint: write it again");
    assert!(stderr(&cut).contains(&expected), "{}", stderr(&cut));
}

#[test]
fn a_model_without_finite_logits_has_no_figures() {
    let home = tempfile::tempdir().unwrap();
    let (data, broken) = (text(home.path()), home.path().join("broken"));
    copy_folder(&bundled(), &broken);
    let weights = broken.join("model.safetensors");
    let mut raw = RawCheckpoint::read(&weights);
    raw.get_mut("model.layers.1.feed_forward.gate_proj.weight").3[..4]
        .copy_from_slice(&f32::NAN.to_le_bytes());
    raw.write(&weights);
    let (broken, good, json) = (broken.to_str().unwrap(), bundled(), home.path().join("figures.json"));
    let json_text = json.to_str().unwrap();
    let base = ["eval", "--data", &data, "--max-tokens", "32", "--json", json_text, "--model"];
    for more in [&[broken][..], &[broken, "--stream"], &[good.to_str().unwrap(), "--reference", broken]] {
        let output = mixbit([&base[..], more].concat());
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        assert!(
            stderr(&output).contains("1.feed_forward.gate_proj.weight`: has a value that is NaN or infinite"),
            "{}",
            stderr(&output)
        );
        assert!(stderr(&output).contains("hint: the model is damaged") && output.stdout.is_empty());
        assert!(!json.exists());
    }
    let logits = home.path().join("logits.npz");
    let output = mixbit(["logits", "--model", broken, "--tokens", "0,5", "--out", logits.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let expected = "its logits are not numbers, first at token 1 of 2\nhint: `mixbit check` names weights";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert!(!logits.exists());
}

#[test]
fn token_ids_need_no_tokenizer() {
    let home = tempfile::tempdir().unwrap();
    let bare = home.path().join("bare");
    copy_folder(&bundled(), &bare);
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::remove_file(bare.join(name)).unwrap();
    }
    let data = home.path().join("ids.npy");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '<u2', 'fortran_order': False, 'shape': (1024,), }\n";
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.extend((0..1024_u16).flat_map(|id| (id * 7 % 1000).to_le_bytes()));
    fs::write(&data, npy).unwrap();
    let data = data.to_str().unwrap();
    let key = "perplexity";
    assert_eq!(figures(&bare, data, &[])[key], figures(&bundled(), data, &[])[key]);
    succeeded(&mixbit(["eval", "--stream", "--model", bare.to_str().unwrap(), "--data", data]));
    let plain = eval(&bare, &text(home.path()), &[]);
    assert!(
        plain.status.code() == Some(1) && stderr(&plain).contains("tokenizer.json"),
        "{}",
        stderr(&plain)
    );
    let small = ["--sequence-length", "32", "--samples", "8", "--calibration", data];
    let out = home.path().join("out");
    let made = make("quantize", &bare, &out, &[&small[..], &["--target-bpw", "4"]].concat());
    succeeded(&made);
    assert!(stderr(&made).contains("note: there is no tokenizer"), "{}", stderr(&made));
    assert!(out.join("mixbit-report.json").is_file());
    let table = home.path().join("table.json");
    let arguments = ["analyze", "--model", bare.to_str().unwrap(), "--out", table.to_str().unwrap()];
    succeeded(&mixbit([&arguments[..], &small].concat()));
    let refused = make("quantize", &bare, &home.path().join("other"), &["--bits", "4"]);
    assert!(stderr(&refused).contains("no tokenizer"), "{}", stderr(&refused));
}

#[test]
fn quiet_leaves_the_figures() {
    let home = tempfile::tempdir().unwrap();
    let quiet = eval(&bundled(), &text(home.path()), &["--max-tokens", "48", "--quiet"]);
    succeeded(&quiet);
    assert!(stderr(&quiet).is_empty());
    for line in ["tokens predicted     47", "perplexity  ", "tokens per second  "] {
        assert!(stdout(&quiet).contains(line), "{line}: {}", stdout(&quiet));
    }
}

#[test]
fn outputs_are_looked_at_before_the_work_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let (data, model) = (text(home.path()), bundled());
    let there = home.path().join("there");
    fs::write(&there, "precious").unwrap();
    let (there_text, nowhere) = (there.to_str().unwrap(), home.path().join("there/figures"));
    let reference = ["--reference", model.to_str().unwrap()];
    for flag in ["--json", "--save-reference"] {
        for (path, expected) in [
            (there_text, "already exists\nhint: --overwrite"),
            (nowhere.to_str().unwrap(), "a file is where a folder is needed"),
        ] {
            let output = eval(&model, &data, &[&reference[..], &[flag, path]].concat());
            assert_eq!(output.status.code(), Some(1));
            // Not a word about the text: it was not read yet.
            let said = stderr(&output);
            assert!(said.starts_with("error: ") && said.contains(expected), "{flag}: {said}");
        }
    }
    assert_eq!(fs::read_to_string(&there).unwrap(), "precious");
    let same = ["--json", there_text, "--save-reference", there_text, "--overwrite"];
    let output = eval(&model, &data, &[&reference[..], &same].concat());
    assert!(stderr(&output).contains("the same file"), "{}", stderr(&output));
    succeeded(&eval(&model, &data, &["--json", there_text, "--overwrite"]));
    assert!(json_file(&there)["perplexity"].as_f64().unwrap() > 1.0);
}

#[test]
fn what_windows_leave_out_and_long_ones_are_notes() {
    let home = tempfile::tempdir().unwrap();
    let (data, model) = (text(home.path()), bundled());
    let output = eval(&model, &data, &["--max-tokens", "100", "--json", "-"]);
    succeeded(&output);
    let said = stderr(&output);
    assert!(said.contains("note: the last 4 of 100 tokens left out: less than a window of 48"), "{said}");
    let figures: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&figures["tokens"], &figures["tokens_left_out"]), (&json!(94), &json!(4)));
    assert!(!stderr(&eval(&model, &data, &["--max-tokens", "96"])).contains("note: "));
    let short = home.path().join("short");
    copy_folder(&model, &short);
    let mut config = json_file(&short.join("config.json"));
    config["max_position_embeddings"] = json!(40);
    fs::write(short.join("config.json"), config.to_string()).unwrap();
    let said = stderr(&eval(&short, &data, &["--max-tokens", "96"]));
    assert!(said.contains("sequences of 48 tokens are longer than the model's context of 40"), "{said}");
}

#[test]
fn bad_data_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (data, expected) in [
        (file("empty.txt", b" \n"), "is empty"),
        (file("bytes.txt", b"\xff\xfe\x00"), "UTF-8"),
        (home.path().join("nothing").to_str().unwrap().to_owned(), "nothing"),
    ] {
        let output = eval(&bundled(), &data, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let other = fixtures().join("golden/llama-mha-untied");
    let output = eval(&bundled(), &text(home.path()), &["--reference", other.to_str().unwrap()]);
    assert!(stderr(&output).contains("vocabulary"), "{}", stderr(&output));
}

#[test]
fn quantize_measures_its_result_and_records_it() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let more = ["--target-bpw", "4", "--samples", "8", "--sequence-length", "64"];
    let output = make("quantize", &bundled(), &out, &more);
    succeeded(&output);
    assert!(stdout(&output).contains("held-out part of the built-in text"), "{}", stdout(&output));
    let record = json_file(&out.join("mixbit-report.json"));
    assert_eq!(record["target"]["bpw"], 4.0);
    let kl = record["evaluation"]["kl_mean"].as_f64().unwrap();
    let predicted = record["predicted_kl"].as_f64().unwrap();
    assert!((0.3..3.0).contains(&(kl / predicted)), "{kl} {predicted}");
    let counts = record["evaluation"]["kl_histogram"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), record["evaluation"]["tokens"]);
    assert_eq!(record["sensitivities"].as_array().unwrap().len(), 28);
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains("KL divergence per token"));
    let data = text(home.path());
    let output = make("quantize", &bundled(), &out, &["--bits", "4", "--eval-data", &data, "--overwrite"]);
    succeeded(&output);
    let record = json_file(&out.join("mixbit-report.json"));
    assert!(record["evaluation"]["text"].as_str().unwrap().ends_with("text.txt"), "{record}");
    let output = make("quantize", &bundled(), &out, &[&more[..], &["--no-eval", "--overwrite"]].concat());
    succeeded(&output);
    assert!(json_file(&out.join("mixbit-report.json"))["evaluation"].is_null());
}

#[test]
fn embeddings_are_quantized_only_on_demand_and_where_mlx_lm_can_run_them() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let tied = fixtures().join("golden/llama-gqa-llama3-rope");
    succeeded(&make("quantize", &tied, &out, &["--bits", "4", "--quantize-embeddings", "8:32"]));
    let config = json_file(&out.join("config.json"));
    assert_eq!(config["quantization"]["model.embed_tokens"]["bits"], 8);
    let output = mixbit([
        "logits",
        "--model",
        out.to_str().unwrap(),
        "--tokens",
        "1,2,3",
        "--out",
        home.path().join("l.npz").to_str().unwrap(),
    ]);
    succeeded(&output);
    let report: Value =
        serde_json::from_str(&stdout(&mixbit(["inspect", "--json", out.to_str().unwrap()]))).unwrap();
    assert!((report["bpw_quantized"].as_f64().unwrap() - 4.5).abs() < 1e-9, "the embedding is outside");
    for (model, setting, code, expected) in [
        (bundled(), "8", 2, "head is tied"),
        (tied.clone(), "7", 2, "7 bits"),
        (out.clone(), "8", 1, "already quantized"),
    ] {
        let output = make(
            "quantize",
            &model,
            &home.path().join("no"),
            &["--bits", "4", "--quantize-embeddings", setting],
        );
        assert_eq!(output.status.code(), Some(code));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn windows_are_no_longer_than_the_context() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    copy_folder(&bundled(), &model);
    let mut config = json_file(&model.join("config.json"));
    config["max_position_embeddings"] = json!(64);
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let (data, model) = (text(home.path()), model.to_str().unwrap());
    let output = mixbit(["eval", "--model", model, "--data", &data, "--json", "-"]);
    succeeded(&output);
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(found["sequence_length"], 64);
    assert!(!stderr(&output).contains("longer than the model's context"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_measured_is_said_and_nothing_saved() {
    let home = tempfile::tempdir().unwrap();
    let (model, kept) = (home.path().join("model"), home.path().join("kept"));
    copy_folder(&bundled(), &model);
    let mut raw = RawCheckpoint::read(&model.join("model.safetensors"));
    for value in raw.get_mut("model.norm.weight").3.chunks_exact_mut(4) {
        let scaled = f32::from_le_bytes([value[0], value[1], value[2], value[3]]) * 1e4;
        value.copy_from_slice(&scaled.to_le_bytes());
    }
    raw.write(&model.join("model.safetensors"));
    let (data, reference) = (text(home.path()), model.to_str().unwrap());
    let flags = ["--reference", reference, "--save-reference", kept.to_str().unwrap()];
    let output = eval(&bundled(), &data, &flags);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the reference's own perplexity"), "{}", stderr(&output));
    assert!(!kept.exists());
    let alone = eval(&model, &data, &[]);
    assert!(stderr(&alone).contains("worse than guessing"), "{}", stderr(&alone));
    let bundled = bundled();
    let stream = ["eval", "--model", bundled.to_str().unwrap(), "--data", &data, "--stream"];
    let output = mixbit([&stream[..], &["--max-tokens", "1"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--stream needs at least 3 tokens"), "{}", stderr(&output));
}
