//! The files beside the vocabulary that decide on tokens, as they are, before anything is merged.

use serde_json::{Map, Value};
use std::path::PathBuf;

use super::token::Token;
use super::tokenizer::read_object;
use crate::error::{Error, Result};
use crate::files::json;
use crate::files::model_files::ModelFiles;

pub(crate) const CONFIG: &str = "tokenizer_config.json";
pub(crate) const MAP: &str = "special_tokens_map.json";
pub(crate) const ADDED: &str = "added_tokens.json";

/// Content of the settings files of a tokenizer.
pub(crate) struct Settings {
    files: ModelFiles,
    /// `tokenizer_config.json`; empty where there is none.
    pub(crate) config: Map<String, Value>,
    /// `special_tokens_map.json`, where it counts.
    pub(crate) map: Option<Map<String, Value>>,
    /// `added_tokens.json`, where it counts.
    pub(crate) added: Option<Map<String, Value>>,
    /// True if there is a `tokenizer.json`.
    pub(crate) has_tokenizer_json: bool,
    /// The `added_tokens` of `tokenizer.json` with their ids.
    pub(crate) in_tokenizer_json: Vec<(u32, Token)>,
    /// The token that `tokenizer.json` pads with.
    pub(crate) padding_token: Option<String>,
    /// `model_type` of config.json, where that can be read.
    pub(crate) model_type: Option<String>,
    /// `transformers_version` of config.json.
    pub(crate) transformers_version: Option<String>,
    /// `tokenizer_class` of `tokenizer_config.json`, or without that of config.json.
    pub(crate) tokenizer_class: Option<String>,
}

/// The parts of `tokenizer.json` that say something of tokens outside its model. What is not there is empty; what is
/// wrong was refused when the whole file was read.
#[derive(Default)]
struct Head {
    added_tokens: Vec<Value>,
    padding: Value,
}

impl Head {
    /// Reads `added_tokens` and `padding` of `tokenizer.json`. If a key occurs twice, the last one counts, as in the
    /// tokenizers crate. Both are empty if `tokenizer_json` is not a JSON object.
    fn read(tokenizer_json: &[u8]) -> Self {
        let Ok(Value::Object(mut keys)) = serde_json::from_slice(tokenizer_json) else {
            return Self::default();
        };
        let mut take = |key: &str| keys.get_mut(key).map(Value::take).unwrap_or_default();
        let added_tokens = match take("added_tokens") {
            Value::Array(tokens) => tokens,
            _ => Vec::new(),
        };
        Self { added_tokens, padding: take("padding") }
    }
}

impl Settings {
    /// Reads the files; `tokenizer_json` is the content of `tokenizer.json`, empty where there is none.
    ///
    /// # Errors
    /// Fails when a file that counts is no JSON object. With `added_tokens_decoder` in `tokenizer_config.json` the
    /// others do not count, and are not read.
    pub(crate) fn read(files: &ModelFiles, tokenizer_json: &[u8]) -> Result<Self> {
        let config = read_object(files, CONFIG)?.unwrap_or_default();
        let has_decoder = config.contains_key("added_tokens_decoder");
        let further = |name| if has_decoder { Ok(None) } else { read_object(files, name) };
        let (map, added) = (further(MAP)?, further(ADDED)?);
        let head = Head::read(tokenizer_json);
        let with_id = |value: &Value| {
            let id = json::as_u64(value.get("id")?).and_then(|id| u32::try_from(id).ok())?;
            Some((id, Token::read(value)?))
        };
        // What is wrong with config.json is said where it is needed.
        let model = read_object(files, "config.json").ok().flatten().unwrap_or_default();
        let text = |keys: &Map<String, Value>, key: &str| keys.get(key)?.as_str().map(str::to_owned);
        Ok(Self {
            files: files.clone(),
            has_tokenizer_json: !tokenizer_json.is_empty(),
            in_tokenizer_json: head.added_tokens.iter().filter_map(with_id).collect(),
            padding_token: head.padding.get("pad_token").and_then(Value::as_str).map(str::to_owned),
            model_type: text(&model, "model_type"),
            transformers_version: text(&model, "transformers_version"),
            tokenizer_class: text(&config, "tokenizer_class").or_else(|| text(&model, "tokenizer_class")),
            config,
            map,
            added,
        })
    }

    /// Path of the file `name`, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.files.path_of(name)
    }

    /// The class that a file names, for messages.
    pub(crate) fn class_name(&self) -> &str {
        self.tokenizer_class.as_deref().unwrap_or("Qwen2Tokenizer")
    }

    /// True where `tokenizer_config.json` sets `key`.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.config.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The error where `key` of `file` should be tokens.
    pub(crate) fn wrong_tokens(&self, file: &str, key: &str) -> Error {
        Error::key(self.path_of(file), key, "expected a list of tokens, or an object from names to tokens")
    }
}
