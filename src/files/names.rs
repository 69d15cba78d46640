//! Names of files: which belong to a model and to its tokenizer.

use std::path::Path;

use super::model_files::TEMPLATES;

/// Record of how a model was made, beside its weights.
pub const RECORD: &str = "mixbit-report.json";

/// True if a file of this name belongs to a tokenizer.
pub fn is_tokenizer_file(name: &str) -> bool {
    if let Some(template) = name.strip_prefix(TEMPLATES).and_then(|rest| rest.strip_prefix('/')) {
        return has_extension(template, "jinja");
    }
    TOKENIZER_FILES.contains(&name)
        || has_extension(name, "tiktoken")
        || (name.starts_with("tokenization") && has_extension(name, "py"))
}

pub(crate) fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == extension)
}

/// True if a file of this name is one that models have: weights, what describes them, what the Hub adds.
pub fn is_model_file(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "README.md",
        "LICENSE",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        RECORD,
        "weights.npz",
        ".gitattributes",
    ];
    let weights = name.starts_with("model") && name.ends_with(".safetensors");
    weights || NAMES.contains(&name) || is_tokenizer_file(name)
}

/// Names of tokenizer files that transformers and mlx-lm look for.
const TOKENIZER_FILES: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
];
