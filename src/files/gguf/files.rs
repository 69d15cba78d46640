//! Files of a Hugging Face model that are made of a GGUF's metadata when they are read.

use serde_json::Value;

use super::architecture::Architecture;
use super::gguf::Gguf;
use super::tokenizer;
use crate::error::{Error, Result};

/// Names of the files, sorted.
pub const NAMES: [&str; 5] =
    ["README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

impl Gguf {
    /// Makes the file `name`, one of [`NAMES`]; `None` for any other.
    pub fn file(&self, name: &str) -> Option<Result<Vec<u8>>> {
        Some(match name {
            "README.md" => Ok(card(self).into_bytes()),
            "config.json" => config(self).and_then(|config| written(self, &config)),
            "generation_config.json" => tokenizer::generation(self).and_then(|config| written(self, &config)),
            "tokenizer.json" => tokenizer::tokenizer(self),
            "tokenizer_config.json" => settings(self).and_then(|settings| written(self, &settings)),
            _ => return None,
        })
    }
}

fn config(gguf: &Gguf) -> Result<Value> {
    Architecture::of(gguf)?.config(gguf)
}

fn settings(gguf: &Gguf) -> Result<Value> {
    let config = config(gguf)?;
    let length = ["max_position_embeddings", "n_positions"].iter().find_map(|key| config.get(key));
    tokenizer::settings(gguf, length)
}

fn written(gguf: &Gguf, value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::file(gguf.path(), e.to_string()))
}

/// Makes a card with the model's licence and languages.
fn card(gguf: &Gguf) -> String {
    let mut lines = vec!["---".to_owned()];
    for (ours, theirs) in [
        ("license", "general.license"),
        ("license_name", "general.license.name"),
        ("license_link", "general.license.link"),
    ] {
        if let Ok(Some(text)) = gguf.text(theirs)
            && !text.contains('\n')
        {
            lines.push(format!("{ours}: {text}"));
        }
    }
    let languages = tokenizer::languages(gguf);
    if !languages.is_empty() {
        lines.push("language:".to_owned());
        lines.extend(languages.iter().map(|name| format!("- {name}")));
    }
    lines.push("---\n".to_owned());
    lines.join("\n")
}
