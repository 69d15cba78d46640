//! Tokens that end a text: all EOS ids of config.json, generation_config.json and the tokenizer, and no others. (mlx-lm
//! adds the tokenizer's too, but lets the ids of generation_config.json replace those of config.json. A template's header
//! tokens do not end anything.)

use serde_json::{Map, Value};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::json;
use crate::models::architectures;
use crate::models::config::ModelConfig;
use crate::text::tokenizer::Tokenizer;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "the tokenizer";

/// The tokens that end a model's texts, and who says so.
#[derive(Debug, Clone, Default)]
pub struct StopTokens {
    /// Ids with what names them, sorted by id.
    tokens: Vec<(u32, Vec<&'static str>)>,
    notes: Vec<String>,
}

impl StopTokens {
    /// The union of what the model's files name.
    ///
    /// # Errors
    /// When `eos_token_id` in config.json is no id and no list of ids. A generation_config.json that cannot be read is
    /// left out, with a note.
    pub fn read(config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let mut stop = Self::of_files(config)?;
        stop.add(TOKENIZER, tokenizer.eos_token_id());
        Ok(stop)
    }

    /// Tokens that config.json and generation_config.json name.
    ///
    /// # Errors
    /// As [`StopTokens::read`] has it.
    pub fn of_files(config: &ModelConfig) -> Result<Self> {
        let mut stop = Self::default();
        let vocab_size = vocab_size(config)?;
        let mut add = |file, ids: Vec<u32>| {
            stop.notes.extend(vocab_size.and_then(|size| outside_note(file, &ids, size)));
            stop.add(file, ids);
        };
        add(CONFIG, from_config(config)?);
        match GenerationConfig::read(config)? {
            GenerationConfig::Absent => {}
            GenerationConfig::Whole { stop: ids, .. } => add(GENERATION, ids),
            GenerationConfig::Broken(error) => stop.notes.push(format!("{error}; the file is not used")),
        }
        Ok(stop)
    }

    /// The ids, sorted.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|(id, _)| *id).collect()
    }

    /// True where no token ends a text.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Notes for the user on these files.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Each token as id, text and what names it: ``4 `<|eot_id|>` (config.json, the tokenizer)``.
    pub fn described(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let describe = |(id, named_by): &(u32, Vec<&str>)| {
            format!("{} ({})", describe(tokenizer, *id), named_by.join(", "))
        };
        self.tokens.iter().map(describe).collect()
    }

    fn add(&mut self, named_by: &'static str, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            match self.tokens.binary_search_by_key(&id, |(id, _)| *id) {
                Ok(at) => {
                    if let Some((_, all)) =
                        self.tokens.get_mut(at).filter(|(_, all)| !all.contains(&named_by))
                    {
                        all.push(named_by);
                    }
                }
                Err(at) => self.tokens.insert(at, (id, vec![named_by])),
            }
        }
    }
}

/// A token as id and text.
pub fn describe(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.id_to_token(id).map_or_else(|| id.to_string(), |token| format!("{id} `{token}`"))
}

/// Ids that config.json names.
pub fn from_config(config: &ModelConfig) -> Result<Vec<u32>> {
    match config.get("eos_token_id") {
        None => Ok(Vec::new()),
        Some(ids) => parse(ids).ok_or_else(|| config.error("eos_token_id", unexpected(ids))),
    }
}

/// The generation_config.json beside config.json. No weights depend on it, so that a broken one stands in nobody's way.
#[derive(Debug)]
pub enum GenerationConfig {
    /// There is none.
    Absent,
    /// It can be read.
    Whole {
        /// All keys.
        keys: Map<String, Value>,
        /// Ids of the tokens that end a text, as far as it names any.
        stop: Vec<u32>,
    },
    /// It is no JSON object, or its `eos_token_id` holds something else than ids.
    Broken(Error),
}

impl GenerationConfig {
    /// Reads it.
    ///
    /// # Errors
    /// When the file is there and its bytes cannot be read.
    pub fn read(config: &ModelConfig) -> Result<Self> {
        let Some(files) = config.files() else { return Ok(Self::Absent) };
        if files.has_folder(GENERATION) {
            let path = files.path_of(GENERATION);
            return Ok(Self::Broken(Error::file(path, "is a folder, expected a file")));
        }
        if !files.has(GENERATION) {
            return Ok(Self::Absent);
        }
        Ok(Self::parse(files.path_of(GENERATION), &files.read(GENERATION)?))
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Self {
        let keys = match json::parse_object(&path, bytes) {
            Ok(keys) => keys,
            Err(error) => return Self::Broken(error),
        };
        let ids = keys.get("eos_token_id").filter(|ids| !ids.is_null());
        match ids.map(|ids| parse(ids).ok_or(ids)) {
            None => Self::Whole { keys, stop: Vec::new() },
            Some(Ok(stop)) => Self::Whole { keys, stop },
            Some(Err(ids)) => Self::Broken(Error::key(path, "eos_token_id", unexpected(ids))),
        }
    }
}

/// Rows of the embedding by config.json, or by the defaults of its architecture; `None` for an unknown architecture.
fn vocab_size(config: &ModelConfig) -> Result<Option<usize>> {
    match architectures::find(config) {
        Ok(row) => config.with_defaults(row.defaults).size("vocab_size"),
        Err(_) => Ok(None),
    }
}

/// A note on ids that no model of `vocab_size` tokens writes, so that they never end a text.
fn outside_note(file: &str, ids: &[u32], vocab_size: usize) -> Option<String> {
    let outside = ids.iter().filter(|&&id| id as usize >= vocab_size);
    let outside: Vec<String> = outside.map(u32::to_string).collect();
    let verb = if outside.len() == 1 { "is" } else { "are" };
    let names = outside.join(", ");
    (!outside.is_empty()).then(|| {
        format!("{file}: key `eos_token_id`: {names} {verb} outside the vocabulary of {vocab_size} tokens, so that no text ends there")
    })
}

fn unexpected(value: &Value) -> String {
    format!("expected a token id or a list of them, found {}", json::shown(value))
}

fn parse(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(values) => values.iter().map(id).collect(),
        single => Some(vec![id(single)?]),
    }
}

fn id(value: &Value) -> Option<u32> {
    json::as_u64(value).and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_or_many() {
        assert_eq!(parse(&json!(2)), Some(vec![2]));
        assert_eq!(parse(&json!([1, 4.0])), Some(vec![1, 4]));
        for bad in [json!(-1), json!("x"), json!([1, null])] {
            assert_eq!(parse(&bad), None);
        }
    }

    #[test]
    fn each_id_once_with_all_that_name_it() {
        let mut stop = StopTokens::default();
        stop.add(CONFIG, [4, 1, 4]);
        stop.add(GENERATION, [1]);
        stop.add(TOKENIZER, [2]);
        assert_eq!(stop.ids(), [1, 2, 4]);
        assert_eq!(stop.tokens.first(), Some(&(1, vec![CONFIG, GENERATION])));
        assert_eq!(stop.tokens.last(), Some(&(4, vec![CONFIG])));
    }

    #[test]
    fn ids_outside_the_vocabulary_are_noted() {
        let read = |ids: Value| {
            let keys = json!({"model_type": "llama", "vocab_size": 128, "eos_token_id": ids});
            let config = ModelConfig::parse(&PathBuf::from(CONFIG), &keys.to_string()).unwrap();
            StopTokens::of_files(&config).unwrap()
        };
        assert!(read(json!([1, 127])).notes().is_empty());
        let stop = read(json!([1, 128, 99_999]));
        let note = "config.json: key `eos_token_id`: 128, 99999 are outside the vocabulary of 128 tokens";
        assert!(stop.notes().concat().starts_with(note), "{:?}", stop.notes());
        assert_eq!(stop.ids(), [1, 128, 99_999]);
    }

    #[test]
    fn generation_configs_whole_and_broken() {
        let read = |text: &str| match GenerationConfig::parse(PathBuf::from(GENERATION), text.as_bytes()) {
            GenerationConfig::Whole { stop, .. } => Ok(stop),
            GenerationConfig::Broken(error) => Err(error.to_string()),
            GenerationConfig::Absent => Err(String::new()),
        };
        assert_eq!(read(r#"{"eos_token_id": [3, 1]}"#), Ok(vec![3, 1]));
        assert_eq!(read(r#"{"eos_token_id": null}"#), Ok(Vec::new()));
        for text in ["", "{\"eos_token_id\": 1,}"] {
            assert!(read(text).unwrap_err().contains("not valid JSON"), "{text}");
        }
        assert!(read("[]").unwrap_err().contains("expected a JSON object"));
        for text in [r#"{"eos_token_id": "<eos>"}"#, r#"{"eos_token_id": [1, -1]}"#] {
            assert!(read(text).unwrap_err().contains("key `eos_token_id`: expected a token id"), "{text}");
        }
    }
}
