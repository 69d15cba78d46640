//! `mixbit check`: every check can fail, the bundled model passes, and folders that nothing else takes get findings too.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{RawCheckpoint, bundled, copy_folder, fixtures, make, mixbit, stderr, stdout, succeeded};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const GATE: &str = "model.layers.1.feed_forward.gate_proj.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A copy of a model to damage.
struct Patient {
    home: TempDir,
}

impl Patient {
    fn new() -> Self {
        Self::of(&bundled())
    }

    fn of(model: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        copy_folder(model, &home.path().join("model"));
        Self { home }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("model")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn weights(self, change: impl FnOnce(&mut RawCheckpoint)) -> Self {
        let mut raw = RawCheckpoint::read(&self.file(WEIGHTS));
        change(&mut raw);
        raw.write(&self.file(WEIGHTS));
        self
    }

    fn json(self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut value = common::json_file(&self.file(name));
        change(&mut value);
        self.text(name, &value.to_string())
    }

    fn config(self, key: &str, value: Value) -> Self {
        self.json("config.json", |config| config[key] = value)
    }

    fn without(self, key: &str) -> Self {
        self.json("config.json", |config| drop(config.as_object_mut().unwrap().remove(key)))
    }

    fn text(self, name: &str, text: &str) -> Self {
        fs::write(self.file(name), text).unwrap();
        self
    }

    fn template(self, change: impl FnOnce(String) -> String) -> Self {
        let text = fs::read_to_string(self.file("chat_template.jinja")).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed);
        self.text("chat_template.jinja", &changed)
    }

    /// One of the findings is of this level and subject and says this; a problem is an exit code.
    #[track_caller]
    fn finds(self, level: &str, subject: &str, part: &str) -> Self {
        self.finds_beside(None, level, subject, part)
    }

    #[track_caller]
    fn finds_beside(self, reference: Option<&Path>, level: &str, subject: &str, part: &str) -> Self {
        let (code, findings) = findings(&self.path(), reference);
        let of_subject = |f: &&Value| f["level"] == level && f["subject"] == subject;
        let said = findings.iter().filter(of_subject).any(|f| f["message"].as_str().unwrap().contains(part));
        assert!(said, "expected {level} {subject}: {part} in {findings:#?}");
        let problems = findings.iter().any(|f| f["level"] == "problem");
        assert_eq!(code, i32::from(problems));
        self
    }
}

fn findings(model: &Path, reference: Option<&Path>) -> (i32, Vec<Value>) {
    let mut arguments = vec!["check".as_ref(), model, "--json".as_ref()];
    arguments.extend(reference.iter().flat_map(|reference| [Path::new("--reference"), reference]));
    let output = mixbit(arguments);
    let findings = serde_json::from_str(&stdout(&output));
    (output.status.code().unwrap(), findings.unwrap_or_else(|_| panic!("{}", stderr(&output))))
}

/// Sets the float32 values of a tensor.
fn fill(raw: &mut RawCheckpoint, name: &str, value: impl Fn(usize) -> Option<f32>) {
    for (i, bytes) in raw.get_mut(name).3.chunks_exact_mut(4).enumerate() {
        if let Some(value) = value(i) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
}

fn rename(raw: &mut RawCheckpoint, part: &str, to: &str) {
    raw.tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(part, to));
}

#[test]
fn the_bundled_model_passes() {
    let (code, findings) = findings(&bundled(), None);
    assert_eq!(code, 0);
    let mut subjects = BTreeSet::new();
    for finding in &findings {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["level", "subject", "message", "hint"]);
        assert!(["ok", "note"].contains(&finding["level"].as_str().unwrap()), "{finding}");
        assert!(finding["hint"].is_null() || finding["hint"].is_string());
        subjects.insert(finding["subject"].as_str().unwrap().to_owned());
    }
    for subject in [
        "files",
        "tokenizer",
        "mlp",
        "gqa",
        "q/k norm",
        "rope",
        "attention scale",
        "head",
        "shapes",
        "dtypes",
        "bit map",
        "values",
        "rows",
        "outliers",
        "vocabulary",
        "bos",
        "eos",
        "template",
        "forward pass",
    ] {
        assert!(subjects.contains(subject), "{subject} is missing in {subjects:?}");
    }
    let output = mixbit(["check", bundled().to_str().unwrap()]);
    succeeded(&output);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), findings.len());
    assert!(text.lines().all(|line| line.starts_with("ok  ") || line.starts_with("note  ")), "{text}");
    assert!(stderr(&output).is_empty());
}

#[test]
fn golden_models_have_no_problems() {
    for case in common::golden_cases().into_iter().filter(|case| case.join("config.json").is_file()) {
        let (code, findings) = findings(&case, None);
        assert_eq!(code, 0, "{}: {findings:#?}", case.display());
    }
}

#[test]
fn what_is_no_folder_is_an_error() {
    for path in ["no/such/folder", "Cargo.toml"] {
        let output = mixbit(["check", path]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).is_empty() && stderr(&output).contains("hint: "), "{}", stderr(&output));
    }
}

#[test]
fn files() {
    let patient = Patient::new();
    let bytes = fs::read(patient.file(WEIGHTS)).unwrap();
    fs::write(patient.file(WEIGHTS), &bytes[..bytes.len() - 1]).unwrap();
    patient.finds("problem", "files", "not a whole safetensors file").finds("ok", "eos", "<|eot_id|>");
    let patient = Patient::new();
    fs::rename(patient.file(WEIGHTS), patient.file("model-00001-of-00002.safetensors")).unwrap();
    patient.finds("problem", "files", "promise 2 files, 1 are there");
    Patient::new().text("pytorch_model.bin", "").finds("note", "files", "not read: `pytorch_model.bin`");
    Patient::new().text("generation_config.json", "{").finds("problem", "files", "generation_config.json");
    Patient::new().text("tokenizer.json", "{}").finds("problem", "tokenizer", "tokenizer.json");
    let patient = Patient::of(&fixtures().join("golden/llama-sharded-inv-freq"));
    let wrong = |index: &mut Value| index["metadata"]["total_size"] = json!(17);
    patient.json("model.safetensors.index.json", wrong).finds("note", "files", "says total_size 17");
}

#[test]
fn a_flipped_bit_in_an_npz() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("convert", &bundled(), &out, &["--format", "npz"]));
    let patient = Patient::of(&out).finds("ok", "files", "1 weight file");
    let mut bytes = fs::read(patient.file("weights.npz")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(patient.file("weights.npz"), bytes).unwrap();
    patient.finds("problem", "files", "CRC-32");
}

#[test]
fn folders_that_cannot_be_opened_still_get_findings() {
    Patient::new()
        .config("model_type", json!("gpt9"))
        .finds("problem", "config", "`gpt9` is not supported")
        .finds("ok", "values", "all finite")
        .finds("ok", "eos", "<|eot_id|>");
    let patient = Patient::new();
    fs::remove_file(patient.file("config.json")).unwrap();
    patient.finds("problem", "config", "config.json").finds("ok", "vocabulary", "1024 rows");
    let patient = Patient::new();
    fs::remove_file(patient.file(WEIGHTS)).unwrap();
    patient.finds("problem", "files", "no weights").finds("ok", "rope", "in every block");
    Patient::new()
        .config("hidden_act", json!("gelu"))
        .finds("problem", "config", "`gelu`")
        .finds("ok", "gqa", "4 to 1");
}

#[test]
fn shapes() {
    let damaged = Patient::new().weights(|raw| {
        raw.remove("model.norm.weight");
        raw.tensors.push(("surprise".into(), "F32".into(), vec![1], vec![0; 4]));
        raw.get_mut(GATE).2 = vec![128, 384];
    });
    damaged
        .finds("problem", "load", "missing")
        .finds("problem", "shapes", "1 tensor missing: `model.norm.weight`")
        .finds("problem", "shapes", "1 tensor left over: `surprise`")
        .finds("problem", "shapes", "[128, 384] instead of [384, 128]");
}

#[test]
fn mlp_variants() {
    Patient::new()
        .config("intermediate_size", json!(96))
        .finds("note", "mlp", "384 wide; config.json says intermediate_size 96, intermediate_size_mlp 384")
        .finds("note", "decided", "hints at a dual MLP");
    let part = "feed_forward.gate_proj";
    Patient::new().weights(|raw| rename(raw, part, "feed_forward.gate_up_proj")).finds(
        "problem",
        "mlp",
        "gate and up in one matrix",
    );
    Patient::new().weights(|raw| rename(raw, part, "feed_forward.router")).finds(
        "problem",
        "mlp",
        "a mixture of experts",
    );
    Patient::new().weights(|raw| raw.tensors.retain(|tensor| !tensor.0.contains(part))).finds(
        "problem",
        "mlp",
        "no gate: ",
    );
    Patient::new()
        .weights(|raw| rename(raw, "layers.1.feed_forward.up_proj", "layers.1.feed_forward.x"))
        .finds("problem", "mlp", "the MLP of block 0 has other parts than that of 1");
}

#[test]
fn attention() {
    Patient::new().config("num_key_value_heads", json!(2)).finds(
        "problem",
        "gqa",
        "the weights have 128 and 32",
    );
    Patient::new().config("num_key_value_heads", json!(3)).finds("problem", "gqa", "3 key/value heads");
    Patient::new().config("head_dim", json!(64)).finds("problem", "gqa", "of 64 dimensions");
    let q_norm = "model.layers.0.self_attn.q_norm.weight";
    Patient::new()
        .weights(|raw| raw.tensors.push((q_norm.into(), "F32".into(), vec![32], vec![0; 128])))
        .finds("problem", "q/k norm", "no place for them");
    let qwen = Patient::of(&fixtures().join("golden/qwen3-tied")).finds(
        "ok",
        "q/k norm",
        "with weights in every block",
    );
    qwen.weights(|raw| raw.remove(q_norm)).finds("problem", "q/k norm", "blocks only");
    Patient::new()
        .config("no_rope_layers", json!([1, 1, 0, 1]))
        .finds("note", "rope", "in 3 of 4 blocks, not in 2")
        .config("attn_temperature_tuning", json!(true))
        .finds("note", "attention scale", "temperature tuning with attn_scale 0.1");
    Patient::new().config("no_rope_layers", json!([0, 0, 0, 0])).finds("ok", "rope", "in every block").finds(
        "note",
        "decided",
        "a config artefact",
    );
    Patient::new().config("rope_theta", json!("x")).finds("problem", "config", "rope_theta");
}

#[test]
fn heads() {
    let head = |raw: &mut RawCheckpoint, name: &str| {
        let mut copy = raw.get_mut(EMBEDDING).clone();
        copy.0 = name.to_owned();
        raw.tensors.push(copy);
    };
    Patient::new()
        .config("tie_word_embeddings", json!(false))
        .finds("problem", "head", "untied, but there is no")
        .weights(|raw| head(raw, "lm_head.weight"))
        .finds("note", "head", "could be tied")
        .config("tie_word_embeddings", json!(true))
        .finds("note", "decided", "once more")
        .weights(|raw| raw.get_mut("lm_head.weight").3[0] ^= 1)
        .finds("problem", "head", "a different one is stored")
        .without("tie_word_embeddings")
        .finds("note", "head", "tie_word_embeddings is absent");
}

#[test]
fn element_types() {
    Patient::new().config("torch_dtype", json!("bfloat16")).finds(
        "note",
        "dtypes",
        "config.json says bfloat16",
    );
    Patient::new()
        .weights(|raw| {
            let (_, dtype, shape, bytes) = raw.get_mut("model.norm.weight");
            (*dtype, *bytes) = ("BF16".to_owned(), vec![0x3f; shape[0] * 2]);
        })
        .finds("note", "dtypes", "float32 (37 tensors");
    Patient::new().weights(|raw| raw.get_mut(GATE).1 = "I32".to_owned()).finds(
        "problem",
        "dtypes",
        "should be float",
    );
}

#[test]
fn values() {
    Patient::new()
        .weights(|raw| fill(raw, GATE, |i| (i < 2).then_some(f32::NAN)))
        .finds("problem", "values", &format!("`{GATE}` (2)"))
        .finds("problem", "forward pass", "NaN or infinite");
    let filled = |name, value: fn(usize) -> Option<f32>| Patient::new().weights(|raw| fill(raw, name, value));
    filled(GATE, |_| Some(0.0)).finds("problem", "rows", "nothing but zeros");
    filled(GATE, |_| Some(0.5)).finds("problem", "rows", "nothing but zeros or constant rows in 1 tensor");
    filled("model.norm.weight", |_| Some(0.0)).finds("problem", "rows", "`model.norm.weight`");
    filled("model.norm.weight", |_| Some(1.0)).finds("note", "rows", "one value throughout in 1 tensor");
    filled(GATE, |i| (i < 256).then_some(0.0)).finds(
        "note",
        "rows",
        &format!("all-zero rows in 1 tensor: `{GATE}` (2 of 384)"),
    );
    filled(EMBEDDING, |i| (i < 128).then_some(2.0)).finds("note", "rows", "constant rows in 1 tensor");
    // One value in every second group of one layer, which has a fifteenth of the linear weights.
    filled(GATE, |i| i.is_multiple_of(128).then_some(9.0)).finds(
        "note",
        "outliers",
        &format!("50.000% of `{GATE}`"),
    );
}

#[test]
fn bit_maps() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make("quantize", &bundled(), &out, &["--bits", "4", "--layer", "*.v_proj=8:32"]));
    let quantized = || Patient::of(&out);
    quantized().finds("ok", "bit map", "28 quantized layers (24 x 4:64, 4 x 8:32), each with its own entry");
    quantized()
        .json("config.json", |config| config["quantization"]["bits"] = json!(8))
        .finds("problem", "bit map", "differ");
    let entry = |config: &mut Value, keep: bool| {
        for key in ["quantization", "quantization_config"] {
            let map = config[key].as_object_mut().unwrap();
            map.retain(|path, _| keep || !path.ends_with("0.self_attn.q_proj"));
        }
    };
    quantized().json("config.json", |config| entry(config, false)).finds(
        "ok",
        "bit map",
        "1 without an entry",
    );
    let scales = "model.layers.0.self_attn.q_proj.scales";
    let patient = quantized().weights(|raw| raw.remove(scales));
    fs::remove_file(patient.file("model.safetensors.index.json")).unwrap();
    patient.finds("problem", "load", &format!("tensor `{scales}`: missing"));
    quantized()
        .weights(|raw| {
            let biases = raw.get_mut("model.layers.0.self_attn.q_proj.biases");
            biases.1 = "BF16".to_owned();
        })
        .finds("problem", "load", "is bfloat16: biases are of the same type as their scales");
    quantized()
        .weights(|raw| raw.get_mut("model.layers.0.self_attn.q_proj.weight").1 = "I32".to_owned())
        .finds("problem", "load", "is int32: codes are uint32");
    quantized().weights(|raw| raw.get_mut(scales).3[..2].copy_from_slice(&[0, 0x7e])).finds(
        "problem",
        "values",
        "q_proj.weight",
    );
    quantized()
        .weights(|raw| {
            raw.get_mut(scales).3.fill(0);
            raw.get_mut("model.layers.0.self_attn.q_proj.biases").3.fill(0);
        })
        .finds("problem", "rows", "nothing but zeros");
    let default = json!({"bits": 4, "group_size": 64});
    Patient::new().config("quantization", default).finds("note", "bit map", "no layer is quantized, though");
}

#[test]
fn vocabularies_and_the_ends_of_texts() {
    let extra = |config: &mut Value| config["extra_special_tokens"] = json!(["<x>"]);
    Patient::new().json("tokenizer_config.json", extra).finds(
        "problem",
        "vocabulary",
        "ids up to 1024 have no row",
    );
    Patient::new().config("bos_token_id", json!(3)).finds("note", "bos", "config.json names 3");
    Patient::new()
        .json("tokenizer.json", |tokenizer| {
            let bos = tokenizer["post_processor"]["single"][0].clone();
            tokenizer["post_processor"]["single"].as_array_mut().unwrap().insert(0, bos);
        })
        .finds("problem", "bos", "2 times");
    let no_eos = |name| {
        move |patient: Patient| {
            patient.json(name, |v| drop(v.as_object_mut().unwrap().remove("eos_token_id")))
        }
    };
    let patient = no_eos("generation_config.json")(no_eos("config.json")(Patient::new()));
    patient
        .finds("ok", "eos", "4 `<|eot_id|>`")
        .json("tokenizer_config.json", |config| config["eos_token"] = Value::Null)
        .finds("problem", "eos", "no token ends a text");
    let eos = |ids: Value| {
        Patient::new()
            .config("eos_token_id", ids.clone())
            .json("generation_config.json", |config| config["eos_token_id"] = ids)
    };
    eos(json!([1, 2, 4])).finds("problem", "eos", "2 `<|start_header_id|>` begins a turn");
    eos(json!([1, 4, 5000])).finds("problem", "eos", "ids that are no tokens: [5000]");
    eos(json!(-1)).finds("problem", "eos", "expected a token id");
    eos(json!(1)).finds("note", "eos", "eos_token, 4 `<|eot_id|>`, is not among them").finds(
        "note",
        "template",
        "ends an answer with 4 `<|eot_id|>`, which does not end generation",
    );
    Patient::new().config("eos_token_id", json!(1)).finds(
        "note",
        "eos",
        "config.json says [1], generation_config.json [1, 4]",
    );
}

#[test]
fn templates() {
    Patient::new().finds("note", "template", "the tokenizer adds it too");
    Patient::new().template(|t| t.replacen("{{- bos_token }}", "{{- bos_token }}{{- bos_token }}", 1)).finds(
        "problem",
        "template",
        "writes BOS (0 `<|begin_of_text|>`) 2 times",
    );
    Patient::new().template(|t| t.replacen("{{- bos_token }}", "", 1)).finds(
        "note",
        "template",
        "renders without BOS",
    );
    Patient::new().template(|t| t + "{% if").finds("problem", "template", "syntax error");
    Patient::new().template(|t| t.replace("message['content'] | trim", "''")).finds(
        "problem",
        "template",
        "leaves out what the user says",
    );
    // Whatever the token is called, it comes before an answer.
    Patient::new().template(|t| t.replace("<|start_header_id|>assistant", "<|end_of_text|>assistant")).finds(
        "problem",
        "eos",
        "1 `<|end_of_text|>` begins a turn",
    );
    let patient = Patient::new();
    fs::remove_file(patient.file("chat_template.jinja")).unwrap();
    patient.finds("ok", "template", "none");
}

#[test]
fn without_an_engine_the_forward_pass_is_left_out() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixbit"));
    let output =
        command.arg("check").arg(bundled()).env("MIXBIT_ENGINE_DIR", "/nonexistent").output().unwrap();
    if cfg!(target_os = "linux") {
        succeeded(&output);
        assert!(stdout(&output).contains("note     forward pass: engine: "), "{}", stdout(&output));
    }
}

#[test]
fn references() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    succeeded(&make(
        "quantize",
        &bundled(),
        &out,
        &["--bits", "4", "--layer", "*.v_proj=8:32", "--layer", "*.o_proj=float"],
    ));
    let (original, bundled) = (Some(bundled()), bundled());
    let beside = original.as_deref();
    Patient::of(&out)
        .finds_beside(beside, "ok", "reference shapes", "885888 parameters")
        .finds_beside(beside, "ok", "reference config", "the same decoder")
        .finds_beside(beside, "ok", "reference values", "14 float tensors, relative RMS difference")
        .finds_beside(beside, "ok", "reference values", "20 layers at 4 bits, relative RMS rounding error")
        .finds_beside(beside, "ok", "reference values", "4 layers at 8 bits, relative RMS rounding error")
        .finds_beside(beside, "ok", "reference tokenizer", "the same")
        .weights(|raw| raw.get_mut("model.layers.0.self_attn.q_proj.weight").3.fill(0x5a))
        .finds_beside(beside, "problem", "reference values", "1 of 20 layers at 4 bits are no rounding")
        .config("rope_theta", json!(7))
        .finds_beside(beside, "problem", "reference config", "RoPE differ")
        .config("eos_token_id", json!([1, 4]))
        .json("tokenizer.json", |tokenizer| tokenizer["post_processor"] = Value::Null)
        .finds_beside(beside, "problem", "reference tokenizer", "gives other ids");
    Patient::new()
        .finds_beside(beside, "ok", "reference values", "38 float tensors, all equal")
        .weights(|raw| fill(raw, GATE, |i| (i < 64).then_some(0.25)))
        .finds_beside(
            beside,
            "problem",
            "reference values",
            &format!("1 of 38 float tensors differ by more than rounding: `{GATE}`"),
        );
    let other = fixtures().join("golden/llama4-text-tied");
    Patient::of(&other).finds_beside(beside, "problem", "reference shapes", "of another shape");
    Patient::new().config("model_type", json!("x")).finds_beside(beside, "note", "reference", "not compared");
    let (code, findings) = findings(&bundled, Some(Path::new("no/such/folder")));
    assert_eq!(code, 1);
    assert!(findings.iter().any(|f| f["level"] == "problem" && f["subject"] == "reference"), "{findings:#?}");
}
