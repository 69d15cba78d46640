//! Further special tokens of a class.

use serde_json::Value;

use super::super::settings::{CONFIG, Settings};
use super::super::special::LISTS;
use super::super::token::{Token, TokenValue, value};
use super::parts::Extra;
use crate::error::{Error, Result};

impl Extra {
    /// Returns the further special tokens of a class. `list` is `extra_special_tokens`, which outranks the tokens that the
    /// class makes of `older`, the former `additional_special_tokens`; `own` are the model's own tokens by name.
    pub(crate) fn resolve(
        self,
        list: Option<Vec<TokenValue>>,
        older: Option<Vec<TokenValue>>,
        own: &mut [(String, TokenValue)],
        settings: &Settings,
    ) -> Result<Vec<TokenValue>> {
        if let Self::Entities(prefix, names) = self {
            let named = entities(prefix, own, settings);
            let further = names.iter().filter_map(|name| get(own, name)).map(TokenValue::to_special);
            let mut all: Vec<TokenValue> = [list, older].into_iter().flatten().flatten().collect();
            for token in named.into_iter().chain(further.map(TokenValue::Token)) {
                if !all.iter().any(|other| other.content() == token.content()) {
                    all.push(token);
                }
            }
            return Ok(all);
        }
        let is_null = |key| settings.config.get(key).is_some_and(Value::is_null);
        let is_none = |list: &Vec<_>| list.is_empty() && LISTS.into_iter().any(is_null);
        let list = list.filter(|list| !(matches!(self, Self::Fallback(_)) && is_none(list)));
        let Some(list) = list else { return self.of_older(older, own, settings) };
        // Errors count even so.
        if self == Self::Sentinels {
            self.of_older(older, own, settings)?;
        }
        Ok(list)
    }

    /// Returns the further special tokens that the class makes of `older`.
    fn of_older(
        self,
        older: Option<Vec<TokenValue>>,
        own: &[(String, TokenValue)],
        settings: &Settings,
    ) -> Result<Vec<TokenValue>> {
        let texts = |tokens: &[&str]| tokens.iter().map(|token| text(token)).collect::<Vec<_>>();
        let is_none = older.is_none();
        let mut list = older.unwrap_or_default();
        match self {
            Self::Newer => list.clear(),
            Self::Append(tokens) => list.extend(texts(tokens)),
            Self::Named(names) => {
                let named = names.iter().filter(|(name, _)| get(own, name).is_some());
                list.extend(named.map(|(_, token)| text(token)));
            }
            Self::Complete(tokens) => {
                let lacking = texts(tokens).into_iter().filter(|token| !list.contains(token));
                list.extend(lacking.collect::<Vec<_>>());
            }
            Self::Prepend(tokens) => {
                let mut all = texts(tokens);
                let new = list.into_iter().filter(|token| !all.contains(token)).collect::<Vec<_>>();
                all.extend(new);
                list = all;
            }
            Self::Default(tokens) | Self::Fallback(tokens) if is_none => list = texts(tokens),
            Self::None | Self::Entities(..) | Self::Default(_) | Self::Fallback(_) => {}
            Self::Sentinels => sentinels(&mut list, settings)?,
            Self::Pegasus => list = pegasus(&list, settings)?,
        }
        Ok(list)
    }
}

fn get<'a>(own: &'a [(String, TokenValue)], name: &str) -> Option<&'a TokenValue> {
    own.iter().find_map(|(key, token)| (key == name).then_some(token))
}

fn text(token: &str) -> TokenValue {
    TokenValue::Text(token.to_owned())
}

/// Most special tokens that a number in `tokenizer_config.json` may ask for.
const MAX_TOKENS: u64 = 1 << 16;

/// Returns a number of tokens in `tokenizer_config.json`. Fails where it is absurd.
fn number_of_tokens(settings: &Settings, key: &str, default: u64) -> Result<u64> {
    let number = settings.config.get(key).and_then(Value::as_u64).unwrap_or(default);
    if number > MAX_TOKENS {
        let message = format!("found {number}, expected at most {MAX_TOKENS} special tokens");
        return Err(Error::key(settings.path_of(CONFIG), key, message));
    }
    Ok(number)
}

/// Adds the sentinel tokens of T5 where the list has none.
fn sentinels(list: &mut Vec<TokenValue>, settings: &Settings) -> Result<()> {
    let count = number_of_tokens(settings, "extra_ids", 100)?;
    let listed = list.iter().filter(|token| token.content().contains("<extra_id_")).count() as u64;
    if listed == 0 {
        list.extend((0..count).map(|id| text(&format!("<extra_id_{id}>"))));
    } else if count > 0 && count != listed {
        let message = format!(
            "found {count} (the default is 100), expected {listed}, as many as the additional special tokens have"
        );
        return Err(Error::key(settings.path_of(CONFIG), "extra_ids", message));
    }
    Ok(())
}

/// Returns the tokens of Pegasus, which drops those of the list.
fn pegasus(list: &[TokenValue], settings: &Settings) -> Result<Vec<TokenValue>> {
    let sentence_mask = match settings.config.get("mask_token_sent") {
        None => Some("<mask_1>"),
        Some(token) => token.as_str(),
    };
    let first = sentence_mask.filter(|mask| !list.iter().any(|token| token == &text(mask)));
    let unknown = (2..number_of_tokens(settings, "offset", 103)?).map(|id| text(&format!("<unk_{id}>")));
    Ok(first.map(text).into_iter().chain(unknown).collect())
}

/// Returns the two tokens of entities, under the names that the settings give them. In `own` they are texts.
fn entities(prefix: &str, own: &mut [(String, TokenValue)], settings: &Settings) -> Vec<TokenValue> {
    let mut tokens = Vec::new();
    for (key, name) in [("entity_token_1", "entity_1_token"), ("entity_token_2", "entity_2_token")] {
        let Some((_, own)) = own.iter_mut().find(|(own, _)| own == name) else { continue };
        let by_map = settings.map.as_ref().and_then(|map| map.get(name)).filter(|token| token.is_string());
        let token = match settings.config.get(key).or(by_map).and_then(value) {
            Some(TokenValue::Text(token)) => text(&format!("{prefix}{token}")),
            Some(token) => token,
            None => own.clone(),
        };
        *own = text(token.content());
        tokens.push(match token {
            TokenValue::Text(text) => TokenValue::Token(Token::plain(&text)),
            token @ TokenValue::Token(_) => token,
        });
    }
    tokens
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::{config, folder, sentencepiece};
    use crate::text::tokenizer::Tokenizer;

    #[test]
    fn absurd_numbers_of_tokens_are_refused() {
        let mut json = sentencepiece(true);
        let tokens = json["model"]["vocab"].as_object().unwrap().keys().map(|token| json!([token, -1.0]));
        let vocab: Vec<_> = tokens.collect();
        json["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab});
        for (class, key) in [("T5Tokenizer", "extra_ids"), ("PegasusTokenizer", "offset")] {
            let settings = json!({"tokenizer_class": class, key: 1_000_000_000_000_u64}).to_string();
            let dir = folder(&[("tokenizer.json", &json.to_string()), config(&settings)]);
            let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
            let expected = format!(
                "tokenizer_config.json: key `{key}`: found 1000000000000, expected at most 65536 special tokens"
            );
            assert!(error.ends_with(&expected), "{error}");
        }
    }
}
