//! config.json as it comes from the Hub: every key is kept, and the ones that are read are checked.
//!
//! Architectures ask for values through the getters here, so that a wrong type, a negative size or an absurd one
//! is an error that names the file and the key.

use serde_json::{Map, Value};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::json;
use crate::files::json::Literals;
use crate::files::model_files::ModelFiles;
use crate::models::defaults::{Effect, KeyDefault};
use crate::numerics::dtype::Dtype;

/// The largest size (of a layer, a vocabulary, a context) that is taken for meant.
const MAX_SIZE: u64 = 1 << 31;

const NAME: &str = "config.json";

/// A parsed config.json.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    path: PathBuf,
    files: Option<ModelFiles>,
    keys: Map<String, Value>,
    model_type: String,
    literals: Literals,
    defaults: &'static [KeyDefault],
    added: Vec<&'static str>,
    section: Option<&'static str>,
    /// Keys that the architecture's class calls otherwise, with its names for them.
    names: &'static [(&'static str, &'static str)],
}

impl ModelConfig {
    /// Reads config.json of the model folder or pack `path`.
    pub fn from_dir(path: &Path) -> Result<Self> {
        Self::from_files(&ModelFiles::open(path)?)
    }

    /// Reads config.json.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let text = files.read_text(NAME).map_err(|e| match e.io_kind() {
            Some(ErrorKind::NotFound) if !files.path().exists() => {
                Error::file(files.path(), "the model folder does not exist")
                    .hint("models on the Hub are called organisation/name")
            }
            Some(ErrorKind::NotFound) => {
                Error::file(files.path(), format!("has no {NAME}, so it is no model"))
                    .hint("a model folder holds config.json, *.safetensors and tokenizer.json")
            }
            Some(ErrorKind::NotADirectory) => {
                Error::file(files.path(), "is neither a model folder nor a pack")
                    .hint("give the folder that holds config.json, or a file that `mixbit pack` wrote")
            }
            Some(_) => e.hint("config.json must be readable UTF-8 text"),
            None => e,
        })?;
        Ok(Self { files: Some(files.clone()), ..Self::parse(&files.path_of(NAME), &text)? })
    }

    /// Parses `text`; `path` is only for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let (value, literals) = json::parse_with_literals(path, text.as_bytes())?;
        let Value::Object(keys) = value else {
            return Err(Error::file(path, "expected a JSON object"));
        };
        let model_type = match keys.get("model_type") {
            Some(Value::String(s)) if !s.is_empty() => s.clone(),
            Some(other) => {
                return Err(Error::key(
                    path,
                    "model_type",
                    format!("expected a string, found {}", json::shown(other)),
                ));
            }
            None => {
                return Err(Error::key(path, "model_type", "missing")
                    .hint("it names the architecture; `mixbit models` lists what is supported"));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            files: None,
            keys,
            model_type,
            literals,
            defaults: &[],
            added: Vec::new(),
            section: None,
            names: &[],
        })
    }

    /// Returns the object under the key `section` as a config of its own, whose errors name keys of this file. Its
    /// `model_type` is `default` where it has none.
    pub fn section(&self, section: &'static str, default: &str) -> Result<Self> {
        let keys = match self.get(section) {
            Some(Value::Object(keys)) => keys.clone(),
            Some(other) => {
                return Err(self.error(section, format!("expected an object, found {}", json::shown(other))));
            }
            None => return Err(self.error(section, "missing")),
        };
        let nested = Self { keys, section: Some(section), ..self.as_type(default) };
        let model_type = nested.string("model_type")?.unwrap_or(default).to_owned();
        Ok(Self { model_type, ..nested })
    }

    /// Returns this config as that of an architecture called `model_type`.
    #[must_use]
    pub fn as_type(&self, model_type: &str) -> Self {
        Self { model_type: model_type.to_owned(), ..self.clone() }
    }

    /// Returns this config with another value of `key`.
    #[must_use]
    pub fn with_value(mut self, key: &str, value: Value) -> Self {
        self.keys.insert(key.to_owned(), value);
        self
    }

    /// Returns this config with the MLP's width of GPT-2 and GPT-J: four times the hidden size where `n_inner` does not say
    /// it.
    pub(crate) fn with_inner_size(self) -> Result<Self> {
        let inner = self.size("n_inner")?.unwrap_or(4 * self.require_size("hidden_size")?);
        Ok(self.with_value("intermediate_size", inner.into()))
    }

    /// Returns this config with the `usual` scaling of RoPE where it says nothing of one, and a note where that is so.
    #[must_use]
    pub(crate) fn with_usual_scaling(self, usual: Value) -> (Self, Option<String>) {
        if ["rope_scaling", "rope_parameters"].iter().any(|key| self.get(key).is_some()) {
            return (self, None);
        }
        let note = "config.json says nothing of RoPE's scaling: it is that of transformers' class";
        (self.with_value("rope_parameters", usual), Some(note.to_owned()))
    }

    /// Returns this config with no more entries in the lists `keys` than there are layers: makers add some for layers that
    /// predict further tokens.
    pub(crate) fn with_entries_of_layers(mut self, keys: &[&str]) -> Result<Self> {
        let layers = self.require_size("num_hidden_layers")?;
        for key in keys {
            if let Some(Value::Array(entries)) = self.keys.get_mut(*key) {
                entries.truncate(layers);
            }
        }
        Ok(self)
    }

    /// Returns the key of the file that these keys are under; `None` where they are the file's own.
    pub fn section_name(&self) -> Option<&'static str> {
        self.section
    }

    /// Returns this config with `defaults` for the keys that the file does not have. (A RoPE base may stand in several
    /// places; its default is left to [`Self::default_of`].)
    #[must_use]
    pub fn with_defaults(&self, defaults: &'static [KeyDefault]) -> Self {
        let mut config = Self { defaults, ..self.clone() };
        for default in
            defaults.iter().filter(|default| default.key != "rope_theta" && !default.json().is_null())
        {
            let is_absent = match self.keys.get(default.key) {
                Some(value) => value.is_null() && !default.nullable,
                None => true,
            };
            if is_absent {
                config.keys.insert(default.key.to_owned(), default.json());
                config.added.push(default.key);
            }
        }
        config
    }

    /// Returns this config, of whose architecture the class has other `names` for some keys: ours, then the class's.
    #[must_use]
    pub fn with_names(&self, names: &'static [(&'static str, &'static str)]) -> Self {
        Self { names, ..self.clone() }
    }

    /// Returns the class's name of `key`.
    pub(crate) fn name_of<'a>(&self, key: &'a str) -> &'a str {
        self.names.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, name)| name)
    }

    /// Returns this config with the value of `other` as that of `key`, where both are names for one thing.
    pub fn with_alias(&self, key: &'static str, other: &str) -> Result<Self> {
        let mut config = self.clone();
        match (self.get(key), self.get(other)) {
            (Some(one), Some(two)) if !json::equal(one, two) => {
                let (one, two) = (json::shown(one), json::shown(two));
                return Err(self.error(key, format!("is {one}, but {other}, another name for it, is {two}")));
            }
            (None, Some(value)) => {
                config.keys.insert(key.to_owned(), value.clone());
            }
            _ => {}
        }
        Ok(config)
    }

    /// Returns the keys that [`Self::with_defaults`] added.
    pub fn added(&self) -> &[&'static str] {
        &self.added
    }

    /// Returns the added keys that shapes or the arithmetic of every model depend on.
    pub fn added_decisive(&self) -> impl Iterator<Item = &'static str> {
        let is_added = |default: &&KeyDefault| self.added.contains(&default.key);
        let decisive = self.defaults.iter().filter(|default| default.effect == Effect::Decisive);
        decisive.filter(is_added).map(|default| default.key)
    }

    /// Returns the keys of sizes that the architecture's class has.
    pub fn size_keys(&self) -> impl Iterator<Item = &'static str> {
        self.defaults.iter().filter(|default| default.is_size()).map(|default| default.key)
    }

    /// Returns the number that the architecture's class takes where `key` is absent.
    pub fn default_of(&self, key: &str) -> Option<f64> {
        let key = self.name_of(key);
        let default = self.defaults.iter().find(|default| default.key == key)?;
        default.json().as_f64()
    }

    /// Returns the path of the file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files that config.json is one of; `None` where it was only parsed.
    pub fn files(&self) -> Option<&ModelFiles> {
        self.files.as_ref()
    }

    /// Returns the architecture's name.
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    /// Returns all keys, in the file's order.
    pub fn keys(&self) -> &Map<String, Value> {
        &self.keys
    }

    /// Returns the numbers of the file that [`Value`] cannot hold, as the file writes them.
    pub fn literals(&self) -> &Literals {
        &self.literals
    }

    /// Returns the value of `key`, unless absent or null. `key` may be dotted.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = self.name_of(key).split('.');
        let mut value = self.keys.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// Reads a positive size, if present.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match json::as_u64(value) {
            Some(n @ 1..MAX_SIZE) => Ok(Some(n as usize)),
            _ => Err(self.error(
                key,
                format!("expected an integer from 1 to {MAX_SIZE}, found {}", json::shown(value)),
            )),
        }
    }

    /// Reads a positive size that must be there.
    pub fn require_size(&self, key: &str) -> Result<usize> {
        self.required(key, Self::size)
    }

    /// Reads a number of things from 0 on, if present.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match json::as_u64(value) {
            Some(n @ 0..MAX_SIZE) => Ok(Some(n as usize)),
            _ => Err(self.error(key, format!("expected an integer from 0, found {}", json::shown(value)))),
        }
    }

    /// Reads with `get` the value of `key`, which must be there.
    pub fn required<T>(&self, key: &str, get: fn(&Self, &str) -> Result<Option<T>>) -> Result<T> {
        get(self, key)?.ok_or_else(|| self.missing(key))
    }

    /// Reads a finite number, if present.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match json::as_f64(value) {
            Some(x) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.error(key, format!("expected a finite number, found {}", json::shown(value)))),
        }
    }

    /// Reads a finite number above zero, if present.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(x) if x <= 0.0 => Err(self.error(key, format!("expected a number above 0, found {x}"))),
            other => Ok(other),
        }
    }

    /// Reads a positive number that has to be there, in the engine's precision.
    pub(crate) fn factor(&self, key: &str) -> Result<f32> {
        Ok(self.required(key, Self::positive)? as f32)
    }

    /// Reads a boolean (0 and 1 count), if present.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => as_bool(value).map(Some).ok_or_else(|| {
                self.error(key, format!("expected true or false, found {}", json::shown(value)))
            }),
        }
    }

    /// Reads a string, if present.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.error(key, format!("expected a string, found {}", json::shown(other)))),
        }
    }

    /// Fails if `key` has a value other than `expected`, which is all that the decoder block can honour.
    pub fn only(&self, key: &str, expected: &Value) -> Result<()> {
        match self.get(key) {
            Some(value) if !json::equal(value, expected) => Err(self
                .error(key, format!("{} is not supported, only {expected}", json::shown(value)))
                .hint("mixbit refuses what it cannot reproduce rather than guess")),
            _ => Ok(()),
        }
    }

    /// Fails unless the activation that `key` names is one of `names`.
    pub fn only_activation(&self, key: &str, names: &[&str]) -> Result<()> {
        match self.string(key)? {
            Some(other) if !names.contains(&other) => {
                let message = format!("`{other}` is not supported, only {}", names.join(" and "));
                Err(self
                    .error(key, message)
                    .hint("mixbit refuses what it cannot reproduce rather than guess"))
            }
            _ => Ok(()),
        }
    }

    /// Fails unless the activation is SiLU, the one the gated MLP here has.
    pub fn only_silu(&self) -> Result<()> {
        match self.string("hidden_act")? {
            None | Some("silu" | "swish") => Ok(()),
            Some(other) => Err(self.error("hidden_act", format!("`{other}` is not supported, only `silu`"))),
        }
    }

    /// Returns an error about `key` of this file.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        let key = self.name_of(key);
        match self.section {
            Some(section) => Error::key(&self.path, format!("{section}.{key}"), message),
            None => Error::key(&self.path, key, message),
        }
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        self.error(key, "missing").hint(format!("a `{}` config needs it", self.model_type))
    }

    /// Returns the dtype that the config claims for the weights (`dtype` or, before transformers 5, `torch_dtype`).
    ///
    /// # Errors
    /// When it is the name of no type of float weights.
    pub fn dtype(&self) -> Result<Option<Dtype>> {
        for key in ["dtype", "torch_dtype"] {
            let Some(name) = self.string(key)?.filter(|name| !says_nothing_of_floats(name)) else { continue };
            return Dtype::from_name(name).map(Some).ok_or_else(|| {
                let message =
                    format!("`{name}` is no type of float weights, such as float16, bfloat16 or float32");
                self.error(key, message).hint("mend this key or take it out: the weights decide then")
            });
        }
        Ok(None)
    }
}

/// True for what other tools write as a dtype where the float type of weights does not follow from it.
fn says_nothing_of_floats(name: &str) -> bool {
    ["auto", "int8", "uint8"].contains(&name) || name.starts_with("float8_")
}

pub(super) fn as_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Number(_) => match json::as_u64(value) {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ModelConfig> {
        ModelConfig::parse(Path::new("config.json"), text)
    }

    #[test]
    fn malformed_files_are_named() {
        for (text, expected) in [
            ("{", "not valid JSON"),
            ("[]", "expected a JSON object"),
            ("{}", "key `model_type`: missing"),
            (r#"{"model_type": 3}"#, "key `model_type`: expected a string"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("config.json") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let config = parse(r#"{"model_type":"llama","a":-1,"b":0,"c":1e12,"d":2.5,"e":7,"f":null}"#).unwrap();
        for key in ["a", "b", "c", "d"] {
            assert!(config.size(key).is_err(), "{key}");
        }
        assert_eq!(config.size("e").unwrap(), Some(7));
        assert_eq!(config.size("f").unwrap(), None);
        assert!(config.require_size("f").is_err());
    }

    #[test]
    fn tagged_floats_are_numbers_but_not_sizes() {
        let config = parse(r#"{"model_type":"x","a":{"__float__":"Infinity"},"b":[0,1,true]}"#).unwrap();
        assert!(config.number("a").unwrap_err().to_string().contains("finite"));
        for error in [config.size("a").unwrap_err(), config.boolean("a").unwrap_err()] {
            assert!(error.to_string().ends_with("found Infinity"), "{error}");
        }
        assert_eq!(config.booleans("b").unwrap(), Some(vec![false, true, true]));
    }
}
