//! Names of files: which belong to a model and to its tokenizer.

use std::path::Path;

use super::model_files::TEMPLATES;
use super::weight_files::{INDEX, NPZ};

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
    const NAMES: [&str; 7] =
        ["README.md", "LICENSE", "config.json", "generation_config.json", INDEX, RECORD, ".gitattributes"];
    is_weight_file(name) || NAMES.contains(&name) || is_tokenizer_file(name) || is_processor_file(name)
}

/// True if a file of this name says how images, sounds or videos become inputs of a model.
pub fn is_processor_file(name: &str) -> bool {
    const NAMES: [&str; 3] =
        ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"];
    NAMES.contains(&name)
}

/// True if mixbit, mlx-lm and transformers give a file of weights this name.
pub fn is_weight_file(name: &str) -> bool {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_shard = numbers
        .and_then(|numbers| numbers.split_once("-of-"))
        .is_some_and(|(number, count)| is_number(number) && is_number(count));
    is_shard || name == "model.safetensors" || name == NPZ
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_exact_names() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors", "weights.npz"] {
            assert!(is_weight_file(name) && is_model_file(name), "{name}");
        }
        for name in [
            "model-old.safetensors",
            "model_backup.safetensors",
            "model-1-of-2.safetensors",
            "model-00001-of-00002-old.safetensors",
            "model.npz",
            "adapters.safetensors",
        ] {
            assert!(!is_weight_file(name) && !is_model_file(name), "{name}");
        }
    }
}
