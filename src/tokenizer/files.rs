//! Which files of a model folder are the tokenizer's, and what to say when the one that matters is missing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Names that transformers and mlx-lm look for.
const NAMES: [&str; 14] = [
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
    "additional_chat_templates",
];

/// The files in `dir` that belong to the tokenizer and that a converted model needs too, as paths relative to
/// `dir`, sorted.
///
/// These are `tokenizer.json` and its settings (`tokenizer_config.json`, `special_tokens_map.json`,
/// `added_tokens.json`), the vocabularies of slow tokenizers (`vocab.json`, `merges.txt`, `vocab.txt`,
/// `tokenizer.model`, `spiece.model`, `sentencepiece.bpe.model`, `tekken.json`, `*.tiktoken`), the code that a
/// custom tokenizer's `auto_map` names (`tokenization*.py`), and chat templates (`chat_template.jinja`,
/// `chat_template.json`, `additional_chat_templates/*.jinja`). What is not there is not in the list.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names_in(dir) {
        if name == "additional_chat_templates" {
            let templates = names_in(&dir.join(&name)).into_iter().filter(|n| has_extension(n, "jinja"));
            found.extend(templates.map(|n| Path::new(&name).join(n)));
        } else if is_file_of_one(&name) {
            found.push(PathBuf::from(name));
        }
    }
    // Snapshot folders of the Hub's cache hold links to files: `is_file` follows them.
    found.retain(|path| dir.join(path).is_file());
    found.sort();
    found
}

/// Whether a file of this name belongs to a tokenizer.
pub fn is_file_of_one(name: &str) -> bool {
    NAMES.contains(&name)
        || has_extension(name, "tiktoken")
        || (name.starts_with("tokenization") && has_extension(name, "py"))
}

fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e == extension)
}

/// The error for a folder without `tokenizer.json`; the hint depends on what is there instead.
pub(super) fn no_tokenizer_json(dir: &Path) -> Error {
    if !dir.is_dir() {
        return Error::file(dir, "not a folder; expected a model folder with tokenizer.json");
    }
    let others = files(dir);
    let source = others.iter().find(|path| {
        let name = path.to_string_lossy();
        has_extension(&name, "model") || has_extension(&name, "tiktoken") || name == "tekken.json"
    });
    match source {
        Some(source) => {
            Error::file(dir, format!("no tokenizer.json, only {}", source.display())).hint(format!(
                "make tokenizer.json with transformers: python -c \"from transformers import AutoTokenizer; \
                 AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}')\"",
                dir.display()
            ))
        }
        None => Error::file(dir, "no tokenizer.json")
            .hint("copy tokenizer.json and tokenizer_config.json from the model's page on the Hub"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::folder;
    use super::super::{Tokenizer, files};
    use std::path::PathBuf;

    #[test]
    fn tokenizer_files_and_nothing_else() {
        let dir = folder(&[
            ("tokenizer.json", ""),
            ("config.json", ""),
            ("model.safetensors", ""),
            ("tokenizer_config.json", ""),
            ("qwen.tiktoken", ""),
            ("tokenization_custom.py", ""),
            ("modeling_custom.py", ""),
            ("merges.txt", ""),
            ("additional_chat_templates/tool_use.jinja", ""),
            ("additional_chat_templates/notes.md", ""),
            ("chat_template.jinja", ""),
            ("vocab.json/is-a-folder", ""),
        ]);
        let expected = [
            "additional_chat_templates/tool_use.jinja",
            "chat_template.jinja",
            "merges.txt",
            "qwen.tiktoken",
            "tokenization_custom.py",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(files(dir.path()), expected.map(PathBuf::from));
        assert_eq!(files(&dir.path().join("absent")), Vec::<PathBuf>::new());
    }

    #[test]
    fn missing_tokenizer_json_says_what_to_do() {
        let dir = folder(&[("config.json", "{}")]);
        let error = Tokenizer::from_dir(dir.path()).err().unwrap();
        assert!(error.to_string().ends_with(": no tokenizer.json"), "{error}");
        assert!(error.hint_text().unwrap().contains("Hub"));
        let dir = folder(&[("tokenizer.model", "")]);
        let error = Tokenizer::from_dir(dir.path()).err().unwrap();
        assert!(error.to_string().ends_with("no tokenizer.json, only tokenizer.model"), "{error}");
        assert!(error.hint_text().unwrap().contains("save_pretrained"));
        let error = Tokenizer::from_dir(&dir.path().join("absent")).err().unwrap();
        assert!(error.to_string().contains("not a folder"), "{error}");
    }
}
