//! The models whose files are mutated, small ones of every kind, and the files that lie beside a model.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::mutate::Kind;
use mixbit::files::model_files::ModelFiles;
use mixbit::files::write_pack::write_pack;
use mixbit::formats::checkpoint::Checkpoint;
use mixbit::formats::npz::write_npz;

/// A file that is mutated, in the model that is opened then.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the model's folder.
    pub model: &'static str,
    /// Name of the file in the folder.
    pub file: &'static str,
    /// Kind of the file.
    pub kind: Kind,
}

impl Target {
    /// Returns the target's name, `MODEL/FILE`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.model, self.file)
    }
}

const fn target(model: &'static str, file: &'static str, kind: Kind) -> Target {
    Target { model, file, kind }
}

/// Name of the pack in its folder, which is opened as a model itself.
pub const PACK: &str = "model.mlxpack";

/// Returns all targets.
pub const TARGETS: &[Target] = &[
    target("sharded", "config.json", Kind::Json),
    target("sharded", "generation_config.json", Kind::Json),
    target("sharded", "model.safetensors.index.json", Kind::Json),
    target("sharded", "model-00001-of-00002.safetensors", Kind::Safetensors),
    target("sharded", "tokenizer.json", Kind::Tokenizer),
    target("sharded", "tokenizer_config.json", Kind::Json),
    target("sharded", "special_tokens_map.json", Kind::Json),
    target("sharded", "added_tokens.json", Kind::Json),
    target("sharded", "chat_template.json", Kind::Json),
    target("sharded", "additional_chat_templates/tool_use.jinja", Kind::Template),
    target("trained", "tokenizer.json", Kind::Tokenizer),
    target("trained", "chat_template.jinja", Kind::Template),
    target("byte-fallback", "tokenizer.json", Kind::Tokenizer),
    target("unigram", "tokenizer.json", Kind::Tokenizer),
    target("wordpiece", "tokenizer.json", Kind::Tokenizer),
    target("quantized", "config.json", Kind::Json),
    target("quantized", "model.safetensors", Kind::Safetensors),
    target("quantized", "mixbit-report.json", Kind::Json),
    target("experts", "config.json", Kind::Json),
    target("experts", "model.safetensors", Kind::Safetensors),
    target("mixtral", "config.json", Kind::Json),
    target("yarn", "config.json", Kind::Json),
    target("qwen3", "config.json", Kind::Json),
    target("npz", "weights.npz", Kind::Archive),
    target("gptq-act-order", "config.json", Kind::Json),
    target("gptq-act-order", "model.safetensors", Kind::Safetensors),
    target("packed-asymmetric", "config.json", Kind::Json),
    target("packed-asymmetric", "model.safetensors", Kind::Safetensors),
    target("fp8-blocks", "model.safetensors", Kind::Safetensors),
    target("bitsandbytes-nf4", "model.safetensors", Kind::Safetensors),
    target("packed-three-bits", "model.safetensors", Kind::Safetensors),
    target("int8-rows", "model.safetensors", Kind::Safetensors),
    target("mxfp4", "model.safetensors", Kind::Safetensors),
    target("nvfp4-compressed", "model.safetensors", Kind::Safetensors),
    target("nvfp4-modelopt", "model.safetensors", Kind::Safetensors),
    target("awq", "model.safetensors", Kind::Safetensors),
    target("bitsandbytes-int8", "model.safetensors", Kind::Safetensors),
    target("gpt-oss", "model.safetensors", Kind::Safetensors),
    target("pytorch-strided", "pytorch_model.bin", Kind::Archive),
    target("gguf", "model.gguf", Kind::Gguf),
    target("gguf-types", "model.gguf", Kind::Gguf),
    target("pack", PACK, Kind::Archive),
    target("quantized", "sensitivity.json", Kind::Json),
    target("quantized", "recipe.toml", Kind::Toml),
    target("quantized", "texts.jsonl", Kind::Lines),
    target("quantized", "tokens.npy", Kind::Array),
    target("quantized", "tokens.npz", Kind::Archive),
];

/// Forms of weights among the models.
const FORMS: [&str; 12] = [
    "gptq-act-order",
    "packed-asymmetric",
    "packed-three-bits",
    "fp8-blocks",
    "int8-rows",
    "mxfp4",
    "nvfp4-compressed",
    "nvfp4-modelopt",
    "awq",
    "bitsandbytes-int8",
    "bitsandbytes-nf4",
    "pytorch-strided",
];

/// Returns the path to open for the model in `folder`.
pub fn path_of_model(folder: &Path) -> PathBuf {
    let pack = folder.join(PACK);
    if pack.is_file() { pack } else { folder.to_owned() }
}

/// Writes all models into `root`, each in the folder of its name.
pub fn write_all(root: &Path) -> Result<()> {
    const TIED: &str = "golden/qwen3-tied";
    const SHARDED: &str = "golden/llama-sharded-inv-freq";
    const QUANTIZED: &str = "golden/quantized-by-mlx-lm/llama4-text-mixed-bits";
    const TRAINED: &str = "models/mobilellm-docs-1m";

    copy(SHARDED, &root.join("sharded"), &[])?;
    write(
        &root.join("sharded/special_tokens_map.json"),
        &json!({"bos_token": "<s>", "eos_token": {
        "content": "</s>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false}}),
    )?;
    write(&root.join("sharded/added_tokens.json"), &json!({"<|tool|>": 62, "<|end|>": 63}))?;
    write(&root.join("sharded/chat_template.json"), &json!({"chat_template": "{{ messages[0].content }}"}))?;
    let templates = root.join("sharded/additional_chat_templates");
    fs::create_dir_all(&templates)?;
    fs::write(
        templates.join("tool_use.jinja"),
        "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}",
    )?;

    for (model, tokenizer, tokens, eos) in [
        ("byte-fallback", serde_json::from_str::<Value>(BYTE_FALLBACK)?, 265, 2),
        ("unigram", unigram(), 9, 1),
        ("wordpiece", wordpiece(), 9, 2),
    ] {
        let folder = root.join(model);
        copy(TIED, &folder, &["tokenizer.json", "tokenizer_config.json", "generation_config.json"])?;
        resize(&folder, tokens, &json!(eos))?;
        write(&folder.join("tokenizer.json"), &tokenizer)?;
        write(&folder.join("tokenizer_config.json"), &json!({"tokenizer_class": "PreTrainedTokenizerFast"}))?;
    }
    copy(TRAINED, &root.join("trained"), &["config.json", "model.safetensors"])?;
    copy(
        TIED,
        &root.join("trained"),
        &["tokenizer.json", "tokenizer_config.json", "generation_config.json"],
    )?;
    resize(&root.join("trained"), 1024, &json!([1, 4]))?;

    copy(QUANTIZED, &root.join("quantized"), &[])?;
    copy(QUANTIZED, &root.join("npz"), &["model.safetensors", "model.safetensors.index.json"])?;
    write_npz(&root.join("npz/weights.npz"), &Checkpoint::open(&root.join("quantized"))?)?;
    let files = ModelFiles::open(&root.join("quantized"))?;
    fs::create_dir_all(root.join("pack"))?;
    let pack = root.join("pack").join(PACK);
    write_pack(&File::create(&pack)?, &pack, &files, &files.names()?, &|_| ())?;
    write_beside(&root.join("quantized"))?;

    copy("golden/quantized-by-mlx-lm/qwen3-moe-quantized-router", &root.join("experts"), &[])?;
    for form in FORMS {
        copy(&format!("golden/forms/{form}"), &root.join(form), &[])?;
    }
    for (model, file) in [("gguf", "qwen2-tied"), ("gguf-types", "types")] {
        fs::create_dir_all(root.join(model))?;
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/gguf/{file}.gguf"));
        fs::copy(from, root.join(model).join("model.gguf"))?;
    }
    copy("golden/gpt-oss-mxfp4", &root.join("gpt-oss"), &[])?;
    copy("golden/mixtral-untied", &root.join("mixtral"), &[])?;
    copy("golden/llama-yarn-rope", &root.join("yarn"), &[])?;
    copy("golden/qwen3-layer-types", &root.join("qwen3"), &[])
}

/// Copies the fixture's files, but those of a golden test and `left_out`.
fn copy(fixture: &str, to: &Path, left_out: &[&str]) -> Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !["case.json", "golden.safetensors"].contains(&name.as_str()) && !left_out.contains(&name.as_str())
        {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

/// Gives the model in `folder` an embedding of as many rows as its tokenizer has tokens, and lets it stop at `eos`.
fn resize(folder: &Path, rows: usize, eos: &Value) -> Result<()> {
    const EMBEDDING: &str = "model.embed_tokens.weight";
    let (weights, config) = (folder.join("model.safetensors"), folder.join("config.json"));
    let bytes = fs::read(&weights)?;
    let mut tensors = safetensors::SafeTensors::deserialize(&bytes)?.tensors();
    let Some((_, embedding)) = tensors.iter_mut().find(|(name, _)| name == EMBEDDING) else {
        return Err("no embedding to lengthen".into());
    };
    let [before, columns] = embedding.shape()[..] else { return Err("an embedding has two axes".into()) };
    let mut data = embedding.data().repeat(rows.div_ceil(before));
    data.truncate(embedding.data().len() / before * rows);
    *embedding = safetensors::tensor::TensorView::new(embedding.dtype(), vec![rows, columns], &data)?;
    safetensors::serialize_to_file(tensors, None, &weights)?;
    let mut keys: Value = serde_json::from_slice(&fs::read(&config)?)?;
    keys["vocab_size"] = json!(rows);
    keys["eos_token_id"] = eos.clone();
    write(&config, &keys)
}

fn write(path: &Path, value: &Value) -> Result<()> {
    Ok(fs::write(path, serde_json::to_vec(value)?)?)
}

/// Writes a record, a sensitivity table, a recipe and texts.
fn write_beside(folder: &Path) -> Result<()> {
    let layers = json!([{"path": "model.layers.0.self_attn.q_proj", "rows": 64, "columns": 64, "scores": [
        {"bits": 3, "group_size": 64, "mode": "affine", "kl": 0.02, "stderr": 0.001},
        {"bits": 4, "group_size": 32, "kl": 0.01, "stderr": 0.001}]}]);
    let measurement = json!({"version": 2, "model": "0".repeat(64), "text": "1".repeat(64), "samples": 4,
        "sequence_length": 64, "seed": 0, "method": "fisher-diagonal", "rounding": "rtn", "dtype": "float16",
        "candidates": [{"bits": 3, "group_size": 64, "mode": "affine"}, {"bits": 4, "group_size": 32}]});
    let correction = json!({"search": {"model.layers.0.self_attn.q_proj": {"3": 0.5, "4": 0.75}},
        "measured": [{"bpw": 3.5, "predicted": 0.1, "measured": 0.2}]});
    let evaluation = json!({"text": "t", "windows": 4,
            "sequence_length": 64, "tokens": 252, "perplexity": 9.5, "perplexity_stderr": 0.5,
            "reference_perplexity": 9.0, "reference_perplexity_stderr": 0.5, "ln_perplexity_ratio": 0.05,
            "ln_perplexity_ratio_stderr": 0.01, "nll_correlation": 0.99, "kl_mean": 0.02, "kl_stderr": 0.001,
"kl_median": 0.01, "kl_max": 0.5, "kl_min": 0.0, "kl_percentiles": [[90.0, 0.1], [99.0, 0.2]], "probability_change_mean": 0.0, "probability_change_stderr": 0.01, "probability_change_rms": 0.02, "same_top": 0.95, "same_top_stderr": 0.01, "kl_histogram":
            {"least": 1e-9, "per_decade": 5.0, "counts": [0, 3, 5, 0]}});
    let bytes = json!({"total": 4000, "embeddings": 1000, "codes": 2000, "scales_biases": 500, "float": 500});
    write(
        &folder.join("sensitivity.json"),
        &json!({"measurement": measurement, "layers": layers, "correction": correction}),
    )?;
    write(
        &folder.join("mixbit-report.json"),
        &json!({"version": 1, "mixbit": "0.1.0", "base_model": "x", "target": {"bpw": 4.5}, "recipe": null,
            "dtype": "float16", "rounding": "rtn", "bpw_quantized": 4.5, "bpw_model": 5.5, "bytes_before": bytes,
            "bytes_after": bytes, "predicted_kl": 0.01, "measurement": measurement, "sensitivities": layers,
            "correction": correction, "curve": [{"bpw": 3.0, "bytes": 900, "kl": 0.5}, {"bpw": 8.0, "bytes": 2000,
            "kl": 0.001}], "refinement": {"text": "t", "windows": 2, "rounds": [{"swaps": 3, "kl_before": 0.1,
            "kl_after": 0.09, "stderr": 0.001, "kept": true}]}, "evaluation": evaluation}),
    )?;
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("quant-recipes/mixed-3-6.toml"),
        folder.join("recipe.toml"),
    )?;
    fs::write(
        folder.join("texts.jsonl"),
        "{\"text\": \"a text\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"id\": 3}\n",
    )?;
    let header = "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 8), }";
    let mut array = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    array.extend(format!("{header:<117}\n").bytes());
    array.extend((0..16_u16).flat_map(u16::to_le_bytes));
    fs::write(folder.join("tokens.npy"), &array)?;
    let mut zip = zip::ZipWriter::new(File::create(folder.join("tokens.npz"))?);
    zip.start_file("tokens.npy", zip::write::SimpleFileOptions::default())?;
    std::io::Write::write_all(&mut zip, &array)?;
    zip.finish()?;
    Ok(())
}

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true})
}

/// Returns a tokenizer in the manner of Llama 2.
const BYTE_FALLBACK: &str = include_str!("../fixtures/tokenizers/byte_fallback.json");

/// Returns a tokenizer in the manner of T5 and Gemma.
fn unigram() -> Value {
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [added(0, "<pad>"), added(1, "</s>"), added(2, "<unk>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": "always", "split": true}, {"type": "Digits", "individual_digits": true}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false, "vocab": [["<pad>", 0.0], ["</s>", 0.0],
            ["<unk>", 0.0], ["▁", -2.0], ["▁a", -2.5], ["a", -3.0], ["b", -3.5], ["ab", -3.2], ["e", -4.0]]}
    })
}

/// Returns a tokenizer in the manner of BERT.
fn wordpiece() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "[UNK]"), added(1, "[CLS]"), added(2, "[SEP]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"},
            {"type": "Split", "pattern": {"Regex": "[a-z]+|\\s"}, "behavior": "Isolated", "invert": false}]},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 4,
            "##b": 5, "##a": 6, "text": 7, "##s": 8}}
    })
}
