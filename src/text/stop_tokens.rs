//! Tokens that end a text: all EOS ids of config.json, generation_config.json and the tokenizer, and no others. (mlx-lm
//! adds the tokenizer's too, but lets the ids of generation_config.json replace those of config.json. A template's
//! header tokens do not end a text.)

use serde_json::{Map, Value};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::json;
use crate::files::json::Literals;
use crate::models::architectures;
use crate::models::config::ModelConfig;
use crate::text::tokenizer::Tokenizer;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "the tokenizer";

/// Tokens that end a model's texts, each with the sources that name it.
#[derive(Debug, Clone, Default)]
pub struct StopTokens {
    /// Ids and the files, or the tokenizer, that name each, sorted by id.
    tokens: Vec<(u32, Vec<&'static str>)>,
    notes: Vec<String>,
}

impl StopTokens {
    /// Reads the tokens that config.json, generation_config.json and the tokenizer name. An invalid
    /// generation_config.json is left out, with a note.
    ///
    /// # Errors
    /// When `eos_token_id` in config.json is neither an id nor a list of ids, when its vocabulary size is invalid, or
    /// when the bytes of generation_config.json cannot be read.
    pub fn read(config: &ModelConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let mut stop = Self::of_files(config)?;
        stop.add(TOKENIZER, tokenizer.eos_token_id());
        Ok(stop)
    }

    /// Reads the tokens that config.json and generation_config.json name. Ids outside the vocabulary get a note.
    ///
    /// # Errors
    /// As [`StopTokens::read`].
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

    /// Returns the ids, sorted.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|(id, _)| *id).collect()
    }

    /// True if no token ends a text.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Returns notes for the user on the files that name stop tokens.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns each token as id, text and the sources that name it: ``4 `<|eot_id|>` (config.json, the tokenizer)``.
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

/// Returns a token as id and text (``4 `<|eot_id|>` ``), or as id alone if the tokenizer does not have it.
pub fn describe(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.id_to_token(id).map_or_else(|| id.to_string(), |token| format!("{id} `{token}`"))
}

/// Reads the stop token ids that config.json names; there are none if it has no `eos_token_id`.
///
/// # Errors
/// When `eos_token_id` is neither an id nor a list of ids.
pub fn from_config(config: &ModelConfig) -> Result<Vec<u32>> {
    let nested = || config.get("text_config.eos_token_id");
    match config.get("eos_token_id").or_else(nested) {
        None => Ok(Vec::new()),
        Some(ids) => {
            parse(ids).ok_or_else(|| config.error("eos_token_id", unexpected(ids, config.literals())))
        }
    }
}

/// Contents of the generation_config.json beside config.json. No weights depend on that file, so a broken one is not an
/// error by itself.
#[derive(Debug)]
pub enum GenerationConfig {
    /// The file does not exist.
    Absent,
    /// The file is a JSON object with valid ids, or none.
    Whole {
        /// All keys of the file, with their values.
        keys: Map<String, Value>,
        /// Ids of the tokens that end a text; empty if the file names none.
        stop: Vec<u32>,
    },
    /// The file is a folder, a link to nothing, or not a JSON object, or `eos_token_id` holds something other than ids.
    Broken(Error),
}

impl GenerationConfig {
    /// Reads the file beside `config`.
    ///
    /// # Errors
    /// When the file exists and its bytes cannot be read.
    pub fn read(config: &ModelConfig) -> Result<Self> {
        let Some(files) = config.files() else { return Ok(Self::Absent) };
        if files.has_folder(GENERATION) {
            let path = files.path_of(GENERATION);
            return Ok(Self::Broken(Error::file(path, "is a folder, expected a file")));
        }
        if let Some(target) = files.dangling_link(GENERATION) {
            let message = format!("is a link to {}, where nothing is", target.display());
            return Ok(Self::Broken(Error::file(files.path_of(GENERATION), message)));
        }
        if !files.has(GENERATION) {
            return Ok(Self::Absent);
        }
        Ok(Self::parse(files.path_of(GENERATION), &files.read(GENERATION)?))
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Self {
        let read = json::parse_object_with_literals(&path, bytes);
        let (keys, literals) = match read {
            Ok(read) => read,
            Err(error) => return Self::Broken(error),
        };
        let ids = keys.get("eos_token_id").filter(|ids| !ids.is_null());
        match ids.map(|ids| parse(ids).ok_or(ids)) {
            None => Self::Whole { keys, stop: Vec::new() },
            Some(Ok(stop)) => Self::Whole { keys, stop },
            Some(Err(ids)) => Self::Broken(Error::key(path, "eos_token_id", unexpected(ids, &literals))),
        }
    }
}

/// Returns the vocabulary size in tokens by config.json, or by the defaults of its architecture; `None` for an unknown
/// architecture.
fn vocab_size(config: &ModelConfig) -> Result<Option<usize>> {
    match architectures::find(config).and_then(|row| row.decoder(config)) {
        Ok((row, config)) => config.with_defaults(row.defaults).size("vocab_size"),
        Err(_) => Ok(None),
    }
}

/// Returns a note on those of `ids` that a model of `vocab_size` tokens never writes, so that no text ends there;
/// `None` if all are within the vocabulary. `file` is the file that names the ids.
fn outside_note(file: &str, ids: &[u32], vocab_size: usize) -> Option<String> {
    let outside = ids.iter().filter(|&&id| id as usize >= vocab_size);
    let outside: Vec<String> = outside.map(u32::to_string).collect();
    let verb = if outside.len() == 1 { "is" } else { "are" };
    let names = outside.join(", ");
    (!outside.is_empty()).then(|| {
        format!("{file}: key `eos_token_id`: {names} {verb} outside the vocabulary of {vocab_size} tokens, so that no text ends there")
    })
}

fn unexpected(value: &Value, literals: &Literals) -> String {
    let shown = json::shown_as_written(value, "eos_token_id", literals);
    format!("expected a token id or a list of them, found {shown}")
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

/// Writes token ids that are floats with whole values, such as 4.0, as integers. Returns true if there were any.
pub fn make_ids_integers(keys: &mut Map<String, Value>) -> bool {
    let mut has_changed = false;
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        let ids = match keys.get_mut(key) {
            Some(Value::Array(ids)) => &mut ids[..],
            Some(single) => std::slice::from_mut(single),
            None => &mut [],
        };
        for value in ids.iter_mut().filter(|value| value.is_f64()) {
            if let Some(id) = id(value) {
                *value = id.into();
                has_changed = true;
            }
        }
    }
    has_changed
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
    fn whole_floats_become_integers() {
        let keys = json!({"eos_token_id": [1.0, 4], "bos_token_id": 0.0, "pad_token_id": 1.5, "x": 2.0});
        let mut keys = keys.as_object().unwrap().clone();
        assert!(make_ids_integers(&mut keys) && !make_ids_integers(&mut keys));
        let expected = r#"{"eos_token_id":[1,4],"bos_token_id":0,"pad_token_id":1.5,"x":2.0}"#;
        assert_eq!(Value::Object(keys).to_string(), expected);
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
        let error = read(r#"{"eos_token_id": 18446744073709551616}"#).unwrap_err();
        assert!(error.ends_with("found 18446744073709551616"), "{error}");
        for text in [r#"{"eos_token_id": "<eos>"}"#, r#"{"eos_token_id": [1, -1]}"#] {
            assert!(read(text).unwrap_err().contains("key `eos_token_id`: expected a token id"), "{text}");
        }
    }
}
