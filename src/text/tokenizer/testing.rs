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
