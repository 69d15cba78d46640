//! Tokenizers for the tests of this folder.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

use super::tokenizer::Tokenizer;

/// The committed fixture: byte-level BPE, BOS in the post-processor, a chat template.
pub(crate) fn fixture() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
    Tokenizer::from_dir(&dir).unwrap()
}

/// A folder with these files (name, content).
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

/// A `tokenizer_config.json` for [`folder`].
pub(crate) fn config(content: &str) -> (&'static str, &str) {
    ("tokenizer_config.json", content)
}

/// A `tokenizer.json` in the manner of Llama 2: `▁` for spaces, byte fallback, the first space dropped in
/// decoding. Ids: `<unk> <s> </s>`, 256 bytes, `▁`, `a`, `b`, `▁a`, `▁▁`, `ab`.
pub(crate) fn sentencepiece(bos: bool) -> Value {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    vocab.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend(["▁", "a", "b", "▁a", "▁▁", "ab"].map(String::from));
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().zip((0..).map(Value::from)).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let bos_then_text =
        json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let post_processor = json!({
        "type": "TemplateProcessing", "single": bos_then_text, "pair": [{"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": if bos { post_processor } else { Value::Null },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": [["▁", "a"], ["▁", "▁"], ["a", "b"]]}
    })
}
