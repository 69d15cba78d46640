//! Tokenizers for the tests of this folder.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
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
    let text = include_str!("../../../fixtures/tokenizers/byte_fallback.json");
    let mut tokenizer: Value = serde_json::from_str(text).unwrap();
    if !bos {
        tokenizer["post_processor"] = Value::Null;
    }
    tokenizer
}

/// Returns the tokenizer of a Llama's folder with this `tokenizer.json`, built by a class with these settings.
pub(crate) fn of_class(json: &Value, class: &str, settings: &Value) -> Tokenizer {
    let mut config = settings.clone();
    config["tokenizer_class"] = class.into();
    let files = [
        ("tokenizer.json", &*json.to_string()),
        ("config.json", r#"{"model_type": "llama"}"#),
        ("tokenizer_config.json", &*config.to_string()),
    ];
    Tokenizer::from_dir(folder(&files).path()).unwrap()
}

/// Class, settings, and what follows: token ids, decoded text, id of EOS, number of tokens.
pub(crate) type ClassRow<'a> = (&'a str, Value, &'a [u32], &'a str, Option<u32>, usize);

/// Checks token ids, decoded text, id of EOS and number of tokens of classes on one text.
pub(crate) fn check_classes(json: &Value, text: &str, rows: &[ClassRow<'_>]) {
    for (class, settings, ids, decoded, eos, size) in rows {
        let tokenizer = of_class(json, class, settings);
        assert_eq!(tokenizer.encode(text, true).unwrap(), *ids, "{class} {settings}");
        assert_eq!(tokenizer.decode(ids, false).unwrap(), *decoded, "{class} {settings}");
        assert_eq!((tokenizer.eos_token_id(), tokenizer.vocab_size()), (*eos, *size), "{class} {settings}");
    }
}
