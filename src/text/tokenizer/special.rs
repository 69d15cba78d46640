//! Special tokens by name (`bos_token`, `eos_token`, ...) and all tokens that other files than `tokenizer.json` add,
//! merged in the order that transformers 5 uses, since that order decides which ids new tokens get.

use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::AddedToken;

use super::class::{Build, Padding};
use super::load::JSON;
use super::settings::{ADDED, CONFIG, MAP, Settings};
use super::token;
use super::token::{Token, TokenValue};
use crate::error::{Error, Result};
use crate::files::json;

/// The names that transformers gives to chat templates, in its order; those of the model's own follow.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Both spellings of the list of further special tokens, the older one last.
pub(crate) const LISTS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];

/// Tokens with their ids, in place of what other files say of either.
const DECODER: &str = "added_tokens_decoder";

/// Special tokens that the files of a model folder name or declare beyond `tokenizer.json`.
pub(crate) struct SpecialTokens {
    /// Named tokens in transformers' order.
    named: Vec<(String, TokenValue)>,
    /// Tokens with the ids that the files give them: `added_tokens_decoder`, or without that `added_tokens.json` and
    /// the `added_tokens` of `tokenizer.json`.
    declared: BTreeMap<u32, Token>,
    /// `extra_special_tokens`, formerly `additional_special_tokens`.
    extra: Vec<TokenValue>,
    /// True if the ids come from `added_tokens_decoder`.
    by_decoder: bool,
    /// Ids of `declared` that come from `tokenizer.json`, in the absence of `added_tokens_decoder`.
    in_tokenizer_json: Vec<u32>,
}

impl SpecialTokens {
    /// Merges what the files say, for a tokenizer that is built in this way.
    ///
    /// `special_tokens_map.json` wins over `tokenizer_config.json` for the keys that it has. It and `added_tokens.json`
    /// count only while the latter has no `added_tokens_decoder`.
    pub(crate) fn merge(settings: &Settings, build: Build) -> Result<Self> {
        let mut merge = Merge::new(settings);
        merge.config()?;
        let by_decoder = settings.config.contains_key(DECODER);
        let declared = if by_decoder {
            declared(settings)?
        } else {
            merge.map()?;
            merge.added()?
        };
        merge.look_up(&declared);
        merge.defaults(build);
        let (list, older) = (merge.extra.take(), merge.older.take());
        let extra = match build.class() {
            Some(class) => class.extra.resolve(list, older, &mut merge.own, settings)?,
            None => list.or(older).unwrap_or_default(),
        };
        let in_tokenizer_json = settings.in_tokenizer_json.iter().map(|(id, _)| *id).collect();
        Ok(Self { named: merge.named_in_order(), declared, extra, by_decoder, in_tokenizer_json })
    }

    /// The text of the named token, for example of `bos_token`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.named().find_map(|(n, token)| (n == name).then_some(token))
    }

    /// All named tokens with their texts.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named.iter().map(|(name, token)| (name.as_str(), token.content()))
    }

    /// Tokens that files give ids: the file, the id, and the text.
    fn declared(&self) -> impl Iterator<Item = (&'static str, u32, &str)> {
        self.declared.iter().map(|(id, token)| {
            let file = match (self.by_decoder, self.in_tokenizer_json.contains(id)) {
                (true, _) => CONFIG,
                (false, true) => JSON,
                (false, false) => ADDED,
            };
            (file, *id, token.content.as_str())
        })
    }

    /// Tokens that have another id in `tokenizer` than a file says: the file, its id, the text, and the id there.
    pub(crate) fn contradicted(
        &self,
        tokenizer: &tokenizers::Tokenizer,
    ) -> Vec<(&'static str, u32, &str, u32)> {
        let other = |(file, declared, text): (&'static str, u32, _)| {
            let id = tokenizer.token_to_id(text).filter(|&id| id != declared)?;
            Some((file, declared, text, id))
        };
        self.declared().filter_map(other).collect()
    }

    /// Makes the tokenizer recognise these tokens; those that it lacks get the next free ids.
    pub(crate) fn add_to(&self, tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let known = tokenizer.get_added_tokens_decoder();
        let mut known: Vec<&str> = known.values().map(|token| token.content.as_str()).collect();
        known.extend(self.declared.values().map(|token| token.content.as_str()));
        let mut further: Vec<&TokenValue> = Vec::new();
        for token in self.named.iter().map(|(_, token)| token).chain(&self.extra) {
            if !known.contains(&token.content()) && !further.contains(&token) {
                further.push(token);
            }
        }
        let is_named = |content: &str| self.named().any(|(_, text)| text == content);
        let add = |token: &Token| token.clone().or_special(is_named(&token.content));
        let declared = self.declared.values().map(add);
        let further = further.into_iter().map(|value| match value {
            TokenValue::Text(text) => Token::special(text),
            TokenValue::Token(token) => add(token),
        });
        let tokens: Vec<AddedToken> = declared.chain(further).map(Token::into_added).collect();
        tokenizer.add_tokens(tokens)?;
        Ok(())
    }

    /// All named tokens and the further ones, each once, as texts.
    pub(crate) fn all(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for token in self.values() {
            if !all.contains(&token.content()) {
                all.push(token.content());
            }
        }
        all
    }

    /// The named tokens and the further ones, as they were given.
    pub(crate) fn values(&self) -> impl Iterator<Item = &TokenValue> {
        self.named.iter().map(|(_, token)| token).chain(&self.extra)
    }
}

/// The arguments that transformers collects from the files, while they are being collected.
struct Merge<'a> {
    settings: &'a Settings,
    /// [`NAMED`] tokens that a file names; `None` where it says that there is none.
    standard: Vec<(String, Option<TokenValue>)>,
    /// Tokens under names of the model's own that were given as objects, or by `special_tokens_map.json`.
    own: Vec<(String, TokenValue)>,
    /// Tokens under names of the model's own that outrank those.
    own_first: Vec<(String, TokenValue)>,
    /// `extra_special_tokens`, or the older list in its place.
    extra: Option<Vec<TokenValue>>,
    /// `additional_special_tokens`, which count in the end where there is no other list.
    older: Option<Vec<TokenValue>>,
}

impl<'a> Merge<'a> {
    fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            standard: Vec::new(),
            own: Vec::new(),
            own_first: Vec::new(),
            extra: None,
            older: None,
        }
    }

    /// Takes the tokens of `tokenizer_config.json`.
    fn config(&mut self) -> Result<()> {
        let config = &self.settings.config;
        for (key, value) in config {
            let is_standard = NAMED.contains(&key.as_str());
            if is_standard && value.is_null() {
                self.standard.push((key.clone(), None));
            }
            match self.named_token(CONFIG, key, value)? {
                Some(token) if is_standard => self.standard.push((key.clone(), Some(token))),
                Some(token @ TokenValue::Text(_)) => self.own_first.push((key.clone(), token)),
                Some(token) => self.own.push((key.clone(), token)),
                None => {}
            }
        }
        let is_empty = |value: &&Value| match value {
            Value::Null => true,
            Value::Array(tokens) => tokens.is_empty(),
            Value::Object(tokens) => tokens.is_empty(),
            _ => false,
        };
        let [new, old] = LISTS.map(|key| config.get(key).map(|value| (key, value)));
        let (list, older) = match new.filter(|(_, value)| !is_empty(value)) {
            Some(new) => (Some(new), old),
            None => (old.or(new), None),
        };
        match list {
            Some((key, Value::Object(tokens))) => {
                for (name, value) in tokens {
                    let token = token::value(value).ok_or_else(|| self.settings.wrong_tokens(CONFIG, key))?;
                    set(&mut self.own_first, name, token);
                }
            }
            Some((key, value)) => self.extra = self.list(CONFIG, key, value)?,
            None => {}
        }
        if let Some((key, value)) = older {
            self.older = self.list(CONFIG, key, value)?;
        }
        if let (true, Some(Value::Object(tokens))) =
            (self.own_first.is_empty(), config.get("model_specific_special_tokens"))
        {
            let tokens = tokens.iter().filter_map(|(name, value)| Some((name.clone(), token::value(value)?)));
            self.own_first = tokens.collect();
        }
        Ok(())
    }

    /// Takes the tokens of `special_tokens_map.json`.
    fn map(&mut self) -> Result<()> {
        let settings = self.settings;
        let Some(map) = &settings.map else { return Ok(()) };
        for (key, value) in map {
            let is_standard = NAMED.contains(&key.as_str());
            let token = self.named_token(MAP, key, value)?.map(TokenValue::special);
            if is_standard {
                self.standard.retain(|(name, _)| name != key);
                self.standard.push((key.clone(), token));
            } else if let Some(token) = token {
                set(&mut self.own, key, token);
            }
        }
        let [new, old] = LISTS;
        match map.get(new) {
            Some(Value::Object(tokens)) => {
                for (name, value) in tokens {
                    let token = token::value(value).ok_or_else(|| settings.wrong_tokens(MAP, new))?;
                    set(&mut self.own_first, name, token);
                }
            }
            Some(value @ Value::Array(_)) => {
                let extra = self.extra.get_or_insert_default();
                let tokens = list_of(value).ok_or_else(|| settings.wrong_tokens(MAP, new))?;
                for token in tokens.into_iter().map(TokenValue::special) {
                    if !extra.contains(&token) {
                        extra.push(token);
                    }
                }
            }
            _ => {}
        }
        if let Some(value) = map.get(old) {
            self.older = self.list(MAP, old, value)?;
        }
        Ok(())
    }

    /// Tokens with ids where there is no `added_tokens_decoder`.
    fn added(&self) -> Result<BTreeMap<u32, Token>> {
        let settings = self.settings;
        let mut declared = BTreeMap::new();
        if let Some(added) = &settings.added {
            // Objects in the config are no tokens yet when transformers compares.
            let by_map = settings.map.as_ref().and_then(|map| list_of(map.get(LISTS[0])?));
            let by_map: Vec<TokenValue> = by_map.into_iter().flatten().map(TokenValue::special).collect();
            let is_text =
                |token: &&TokenValue| matches!(token, TokenValue::Text(_)) || by_map.contains(token);
            let extra = self.extra.iter().flatten().filter(is_text);
            let named = self.standard.iter().filter_map(|(name, token)| {
                let is_object = settings.config.get(name).is_some_and(Value::is_object);
                let by_map = settings.map.as_ref().is_some_and(|map| map.contains_key(name));
                token.as_ref().filter(|_| by_map || !is_object)
            });
            let special: Vec<&str> = named.chain(extra).map(TokenValue::content).collect();
            for (content, id) in added {
                let id = json::as_u64(id).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                    Error::key(settings.path_of(ADDED), content, format!("expected a token id, found {id}"))
                })?;
                let is_special = special.contains(&content.as_str());
                declared.insert(id, Token::added(content, is_special));
            }
        }
        declared.extend(settings.in_tokenizer_json.iter().cloned());
        Ok(declared)
    }

    /// Replaces named tokens by what is declared under their text, with its flags.
    fn look_up(&mut self, declared: &BTreeMap<u32, Token>) {
        let by_decoder = self.settings.config.contains_key(DECODER);
        let in_file = self.settings.in_tokenizer_json.iter().rev().map(|(_, token)| token);
        let in_file = in_file.filter(|_| !by_decoder);
        for value in self.standard.iter_mut().filter_map(|(_, value)| value.as_mut()) {
            let mut tokens = in_file.clone().chain(declared.values().rev());
            if let Some(token) = tokens.find(|token| token.content == value.content()) {
                *value = TokenValue::Token(token.clone());
            }
        }
    }

    /// Adds the names that the class gives tokens which no file names.
    fn defaults(&mut self, build: Build) {
        let text = |text: &str| TokenValue::Text(text.to_owned());
        let mut own = Vec::new();
        for (name, token) in build.class().map(|class| class.named).unwrap_or_default() {
            if !NAMED.contains(name) {
                // `null` says that there is none.
                if self.settings.config.get(*name).is_some_and(Value::is_null) {
                    continue;
                }
                own.push(((*name).to_owned(), text(token)));
            } else if NAMED.contains(token) {
                // The other token where this one has no text, not even for `null`.
                let other =
                    self.standard.iter().find(|(key, _)| key == token).and_then(|(_, token)| token.clone());
                match self.standard.iter_mut().find(|(key, _)| key == name) {
                    Some((_, token)) => *token = token.take().or(other),
                    None => self.standard.push(((*name).to_owned(), other)),
                }
            } else if !self.standard.iter().any(|(key, _)| key == name) {
                self.standard.push(((*name).to_owned(), Some(text(token))));
            }
        }
        for (name, token) in self.own.drain(..) {
            set(&mut own, &name, token);
        }
        self.own = own;
        let pads_as_stored = build.class().is_none_or(|class| class.padding == Padding::Stored);
        let padding = self.settings.padding_token.as_deref().filter(|_| pads_as_stored);
        if let Some(token) = padding.filter(|_| !self.standard.iter().any(|(key, _)| key == "pad_token")) {
            self.standard.push(("pad_token".to_owned(), Some(text(token))));
        }
        let mask = self.standard.iter_mut().find(|(name, _)| name == "mask_token");
        if let (Some(class), Some((_, mask))) = (build.class(), mask) {
            *mask = mask.take().map(|token| class.mask.with_flags(token));
        }
    }

    /// The named tokens in transformers' order.
    fn named_in_order(self) -> Vec<(String, TokenValue)> {
        let mut named: Vec<(String, Option<TokenValue>)> = NAMED
            .iter()
            .map(|name| {
                let value = self.standard.iter().find(|(key, _)| key == name);
                ((*name).to_owned(), value.and_then(|(_, value)| value.clone()))
            })
            .collect();
        for (name, token) in self.own.into_iter().chain(self.own_first) {
            match named.iter_mut().find(|(key, _)| *key == name) {
                Some((_, value)) => *value = Some(token),
                None => named.push((name, Some(token))),
            }
        }
        named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The token that `key` names in `file`, if it names one.
    fn named_token(&self, file: &str, key: &str, value: &Value) -> Result<Option<TokenValue>> {
        let is_standard = NAMED.contains(&key);
        if !is_standard && !key.ends_with("_token") {
            return Ok(None);
        }
        let token = token::value(value);
        if is_standard && token.is_none() && !value.is_null() {
            let expected = "expected a string or an object with `content`";
            return Err(Error::key(self.settings.path_of(file), key, expected));
        }
        Ok(token)
    }

    fn list(&self, file: &str, key: &str, value: &Value) -> Result<Option<Vec<TokenValue>>> {
        match value {
            Value::Null => Ok(Some(Vec::new())),
            value => list_of(value).map(Some).ok_or_else(|| self.settings.wrong_tokens(file, key)),
        }
    }
}

fn list_of(value: &Value) -> Option<Vec<TokenValue>> {
    value.as_array()?.iter().map(token::value).collect()
}

fn set(tokens: &mut Vec<(String, TokenValue)>, name: &str, token: TokenValue) {
    match tokens.iter_mut().find(|(key, _)| key == name) {
        Some((_, value)) => *value = token,
        None => tokens.push((name.to_owned(), token)),
    }
}

/// `added_tokens_decoder`: id (as a string) -> token.
fn declared(settings: &Settings) -> Result<BTreeMap<u32, Token>> {
    let wrong = || Error::key(settings.path_of(CONFIG), DECODER, "expected an object from ids to tokens");
    let tokens = settings.config.get(DECODER).and_then(Value::as_object).ok_or_else(wrong)?;
    let entry = |(id, value): (&String, &Value)| {
        let id: u32 = id.parse().ok()?;
        Some((id, Token::read(value)?))
    };
    tokens.iter().map(|token| entry(token).ok_or_else(wrong)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{folder, sentencepiece};
    use super::super::tokenizer::Tokenizer;

    const TEXT: &str = "a<f>b<e>";
    const ADDED: (&str, &str) = ("added_tokens.json", r#"{"<e>": 265, "<f>": 266}"#);
    const OTHER_ORDER: (&str, &str) =
        ("special_tokens_map.json", r#"{"additional_special_tokens": ["<f>", "<e>"]}"#);

    /// Ids and text of `TEXT`, and the id of EOS. The right values are those of transformers 5.23.
    fn answers(files: &[(&str, &str)]) -> (Vec<u32>, String, Option<u32>) {
        let json = sentencepiece(true).to_string();
        let tokenizer =
            Tokenizer::from_dir(folder(&[files, &[("tokenizer.json", &json)]].concat()).path()).unwrap();
        let ids = tokenizer.encode(TEXT, true).unwrap();
        let text = tokenizer.decode(&ids, true).unwrap();
        (ids, text, tokenizer.eos_token_id())
    }

    #[test]
    fn added_tokens_have_the_ids_of_their_file() {
        let tokens = |files: &[(&str, &str)]| {
            let json = sentencepiece(true).to_string();
            let files = [files, &[("tokenizer.json", &json)]].concat();
            let tokenizer = Tokenizer::from_dir(folder(&files).path()).unwrap();
            assert!(tokenizer.contradicted().is_empty());
            ["<e>", "<f>"].map(|token| tokenizer.token_to_id(token))
        };
        assert_eq!(tokens(&[ADDED]), [Some(265), Some(266)]);
        let floats = ("added_tokens.json", r#"{"<e>": 265.0, "<f>": 266.0}"#);
        assert_eq!(tokens(&[floats]), [Some(265), Some(266)]);
        assert_eq!(tokens(&[ADDED, OTHER_ORDER]), [Some(265), Some(266)]);
        assert_eq!(tokens(&[OTHER_ORDER]), [Some(266), Some(265)]);
        let eos = ("tokenizer_config.json", r#"{"eos_token": "<f>"}"#);
        assert_eq!(tokens(&[ADDED, eos]), [Some(265), Some(266)]);
    }

    #[test]
    fn added_tokens_are_special_where_they_are_named() {
        // Tokens that are text are looked for after normalizing, which puts a space before them here.
        let spelled = vec![1, 262, 63, 105, 65, 261, 63, 104, 65];
        assert_eq!(answers(&[ADDED]), (spelled.clone(), TEXT.to_owned(), None));
        assert_eq!(answers(&[ADDED, OTHER_ORDER]), (spelled, TEXT.to_owned(), None));
        let eos = ("tokenizer_config.json", r#"{"eos_token": "<e>"}"#);
        let ids = vec![1, 262, 63, 105, 65, 261, 265];
        assert_eq!(answers(&[ADDED, OTHER_ORDER, eos]), (ids, "a<f>b".to_owned(), Some(265)));
    }

    #[test]
    fn an_added_tokens_decoder_silences_other_files() {
        let config = ("tokenizer_config.json", r#"{"added_tokens_decoder": {}, "eos_token": "<f>"}"#);
        let ids = vec![1, 262, 265, 259, 261, 63, 104, 65];
        assert_eq!(answers(&[ADDED, OTHER_ORDER, config]), (ids, "a b<e>".to_owned(), Some(265)));
        // Also where they cannot be read.
        let broken = [("added_tokens.json", "{"), ("special_tokens_map.json", "["), config];
        assert_eq!(answers(&broken).2, Some(265));
    }

    #[test]
    fn names_of_the_models_own_come_after_the_others() {
        let both = ("tokenizer_config.json", r#"{"pad_token": "<e>", "x_token": "<e>"}"#);
        let map = ("special_tokens_map.json", r#"{"pad_token": "<f>"}"#);
        assert_eq!(answers(&[both, map]).0, [1, 262, 265, 259, 261, 266]);
        let lists = (
            "tokenizer_config.json",
            r#"{"extra_special_tokens": {"x_token": "<e>"}, "additional_special_tokens": ["<f>"]}"#,
        );
        assert_eq!(answers(&[lists]).0, [1, 262, 266, 259, 261, 265]);
    }

    #[test]
    fn special_tokens_can_be_split() {
        let config = (
            "tokenizer_config.json",
            r#"{"additional_special_tokens": ["<f>", "<e>"], "split_special_tokens": true}"#,
        );
        assert_eq!(answers(&[config]).0, [1, 262, 63, 105, 65, 261, 63, 104, 65]);
    }

    #[test]
    fn broken_files_that_count_are_named() {
        let json = sentencepiece(true).to_string();
        for (name, content) in [
            ("added_tokens.json", "{"),
            ("added_tokens.json", r#"{"<e>": "265"}"#),
            ("special_tokens_map.json", "[]"),
            ("special_tokens_map.json", r#"{"eos_token": 3}"#),
            ("tokenizer_config.json", r#"{"extra_special_tokens": [3]}"#),
        ] {
            let dir = folder(&[("tokenizer.json", &json), (name, content)]);
            let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
