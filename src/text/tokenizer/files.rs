//! Names of a model folder's tokenizer files, and the error for a folder without `tokenizer.json`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::model_files::ModelFiles;
use crate::files::names::{has_extension, is_tokenizer_file};

/// Names of the tokenizer's files among those of a model, sorted: a converted model needs them too.
///
/// These are `tokenizer.json` and its settings (`tokenizer_config.json`, `special_tokens_map.json`,
/// `added_tokens.json`), the vocabularies of slow tokenizers (`vocab.json`, `merges.txt`, `vocab.txt`,
/// `tokenizer.model`, `spiece.model`, `sentencepiece.bpe.model`, `tekken.json`, `*.tiktoken`), the code that a
/// custom tokenizer's `auto_map` names (`tokenization*.py`), and chat templates (`chat_template.jinja`,
/// `chat_template.json`, `additional_chat_templates/*.jinja`). What is not there is not in the list.
///
/// # Errors
/// Fails when the folder cannot be listed.
pub fn files(files: &ModelFiles) -> Result<Vec<String>> {
    let mut names = files.names()?;
    names.retain(|name| is_tokenizer_file(name));
    Ok(names)
}

/// The error for a folder without `tokenizer.json`; the hint depends on what is there instead.
pub(crate) fn no_tokenizer_json(model: &ModelFiles) -> Error {
    let dir = model.path();
    if !dir.exists() {
        return Error::file(dir, "not a folder; expected a model folder with tokenizer.json");
    }
    if model.has_folder("tokenizer.json") {
        return Error::file(model.path_of("tokenizer.json"), "is a folder, expected a file")
            .hint("move it elsewhere, and copy tokenizer.json from the model's page on the Hub");
    }
    if let Some(target) = model.dangling_link("tokenizer.json") {
        let message = format!("is a link to {}, where nothing is", target.display());
        return Error::file(model.path_of("tokenizer.json"), message).hint("download the model again");
    }
    let others = match files(model) {
        Ok(others) => others,
        Err(error) => return error,
    };
    let has = |name: &str| others.iter().any(|other| other == name);
    let made = |source: &str, packages: &str| {
        Error::file(dir, format!("no tokenizer.json, only {source}")).hint(format!(
            "make tokenizer.json with transformers: pip install transformers {packages}; {}",
            save_pretrained(dir)
        ))
    };
    if let Some(source) = others.iter().find(|name| has_extension(name, "model")) {
        return made(source, "sentencepiece protobuf tiktoken");
    }
    if has("vocab.json") && has("merges.txt") {
        return made("vocab.json and merges.txt", "tokenizers");
    }
    match others.iter().find(|name| has_extension(name, "tiktoken")) {
        Some(source) => Error::file(dir, format!("no tokenizer.json, only {source}")).hint(
            "transformers makes none of such a file: take tokenizer.json and tokenizer_config.json from a \
             repository with this model for transformers or MLX",
        ),
        None => Error::file(dir, "no tokenizer.json")
            .hint("copy tokenizer.json and tokenizer_config.json from the model's page on the Hub"),
    }
}

/// The command that makes `tokenizer.json` of what else is in `dir`.
pub(crate) fn save_pretrained(dir: &Path) -> String {
    format!(
        "python -c \"from transformers import AutoTokenizer; \
         AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}')\"",
        dir.display()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::folder;
    use super::super::tokenizer::Tokenizer;
    use super::files;
    use crate::files::model_files::ModelFiles;
    use std::path::Path;

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
        let names = |path: &Path| files(&ModelFiles::open(path).unwrap());
        assert_eq!(names(dir.path()).unwrap(), expected);
        let error = names(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
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
        let dir = folder(&[("vocab.json", "{}"), ("merges.txt", "")]);
        let error = Tokenizer::from_dir(dir.path()).err().unwrap();
        assert!(error.hint_text().unwrap().contains("save_pretrained"), "{error}");
        // Nothing can be made of this one.
        let dir = folder(&[("qwen.tiktoken", "")]);
        let error = Tokenizer::from_dir(dir.path()).err().unwrap();
        assert!(error.to_string().ends_with("no tokenizer.json, only qwen.tiktoken"), "{error}");
        assert!(!error.hint_text().unwrap().contains("save_pretrained"), "{error}");
        let error = Tokenizer::from_dir(&dir.path().join("absent")).err().unwrap();
        assert!(error.to_string().contains("not a folder"), "{error}");
        let dir = folder(&[("tokenizer.json/is-a-folder", "")]);
        let error = Tokenizer::from_dir(dir.path()).err().unwrap();
        assert!(error.to_string().ends_with("tokenizer.json: is a folder, expected a file"), "{error}");
    }
}
