//! Special tokens by name (`bos_token`, `eos_token`, ...) and the tokens that only `tokenizer_config.json`
//! knows, merged from the files in the order that transformers 5 uses.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::read_object;
use crate::error::{Error, Result};
use crate::model_files::ModelFiles;

/// The names that transformers gives to chat templates, in its order; other keys that end in `_token` follow.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the folder says about special tokens beyond `tokenizer.json`.
pub(super) struct SpecialTokens {
    named: Vec<(String, AddedToken)>,
    /// `added_tokens_decoder`, with its ids: overrides the flags of `tokenizer.json`'s tokens.
    declared: Vec<(u32, AddedToken)>,
    /// `extra_special_tokens`, formerly `additional_special_tokens`.
    extra: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Reads `config` (`tokenizer_config.json`) and `special_tokens_map.json`; the latter wins for the keys that
    /// it has, but counts only while the former has no `added_tokens_decoder`, as in transformers.
    pub(super) fn read(files: &ModelFiles, config_path: &Path, config: &Map<String, Value>) -> Result<Self> {
        let declared = match config.get("added_tokens_decoder") {
            Some(tokens) => Some(declared(config_path, tokens)?),
            None => None,
        };
        let mut special = Self { named: Vec::new(), declared: Vec::new(), extra: Vec::new() };
        special.take(config_path, config)?;
        if let Some(declared) = declared {
            special.declared = declared;
        } else {
            let name = "special_tokens_map.json";
            if let Some(map) = read_object(files, name)? {
                special.take(&files.path_of(name), &map)?;
            }
        }
        special.named.sort_by_key(|(name, _)| NAMED.iter().position(|n| n == name).unwrap_or(NAMED.len()));
        Ok(special)
    }

    /// The text of the named token, for example of `bos_token`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.named().find_map(|(n, token)| (n == name).then_some(token))
    }

    /// All named tokens with their texts.
    pub(super) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, token)| (name.as_str(), token.content.as_str()))
    }

    /// Ids and texts of `added_tokens_decoder`, by id.
    pub(super) fn declared(&self) -> impl Iterator<Item = (u32, &str)> {
        self.declared.iter().map(|(id, token)| (*id, token.content.as_str()))
    }

    /// Makes the tokenizer recognise these tokens; those that `tokenizer.json` lacks get the next free ids.
    pub(super) fn add_to(&self, tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let known = tokenizer.get_added_tokens_decoder();
        let mut seen: HashSet<&str> = known.values().map(|token| token.content.as_str()).collect();
        let mut tokens = Vec::new();
        for (_, token) in &self.declared {
            seen.insert(&token.content);
            tokens.push(token.clone());
        }
        for (_, token) in &self.named {
            if seen.insert(&token.content) {
                tokens.push(AddedToken { special: true, ..token.clone() });
            }
        }
        for token in &self.extra {
            if seen.insert(&token.content) {
                tokens.push(token.clone());
            }
        }
        if !tokens.is_empty() {
            tokenizer.add_tokens(tokens)?;
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, object: &Map<String, Value>) -> Result<()> {
        for (key, value) in object {
            if key.ends_with("_token") && (NAMED.contains(&key.as_str()) || is_token(value)) {
                let token = token(value);
                if token.is_none() && !value.is_null() {
                    return Err(Error::key(path, key, "expected a string or an object with `content`"));
                }
                self.named.retain(|(name, _)| name != key);
                self.named.extend(token.map(|token| (key.clone(), token)));
            }
        }
        match object.get("extra_special_tokens").or_else(|| object.get("additional_special_tokens")) {
            Some(Value::Array(tokens)) => self.extra = tokens.iter().filter_map(token).collect(),
            Some(Value::Object(tokens)) => {
                self.named.extend(tokens.iter().filter_map(|(name, t)| Some((name.clone(), token(t)?))));
            }
            _ => {}
        }
        Ok(())
    }
}

fn is_token(value: &Value) -> bool {
    value.is_string() || value.get("content").is_some_and(Value::is_string)
}

/// A token given as a string (then it is special) or as an object with `content` and flags.
fn token(value: &Value) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken::from(content, true));
    }
    let content = value.get("content")?.as_str()?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}

/// `added_tokens_decoder`: id (as a string) -> token, in the order of the ids.
fn declared(path: &Path, tokens: &Value) -> Result<Vec<(u32, AddedToken)>> {
    let wrong = || Error::key(path, "added_tokens_decoder", "expected an object from ids to tokens");
    let mut sorted = Vec::new();
    for (id, value) in tokens.as_object().ok_or_else(wrong)? {
        let id: u32 = id.parse().map_err(|_| wrong())?;
        sorted.push((id, token(value).ok_or_else(wrong)?));
    }
    sorted.sort_by_key(|(id, _)| *id);
    Ok(sorted)
}
