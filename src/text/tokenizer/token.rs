//! One added token as the JSON files spell it: a string, or an object with `content` and flags.

use serde_json::Value;
use tokenizers::AddedToken;

/// A token with its flags, of which `normalized` follows from `special` unless it is given.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "the flags are the format's")]
pub(crate) struct Token {
    pub(crate) content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: Option<bool>,
    pub(crate) special: bool,
}

impl Token {
    /// A special token.
    pub(crate) fn special(content: &str) -> Self {
        Self { special: true, ..Self::plain(content) }
    }

    /// A token that is text.
    pub(crate) fn plain(content: &str) -> Self {
        Self { content: content.to_owned(), ..Self::default() }
    }

    /// A token of `added_tokens.json`, which has no flags.
    pub(crate) fn added(content: &str, special: bool) -> Self {
        Self { special, normalized: Some(!special), ..Self::plain(content) }
    }

    /// A mask token, which takes the white space before it.
    pub(crate) fn mask(content: &str, normalized: Option<bool>) -> Self {
        Self { lstrip: true, normalized, ..Self::special(content) }
    }

    /// The token, made special if `special`.
    pub(crate) fn or_special(self, special: bool) -> Self {
        Self { special: self.special || special, ..self }
    }

    /// Returns the token in the form of the tokenizers crate.
    pub(crate) fn into_added(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }

    /// An object with `content` and flags.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        Some(Self {
            content: value.get("content")?.as_str()?.to_owned(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
        })
    }
}

/// Compares tokens by their resulting flags, given or implied.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.clone().into_added() == other.clone().into_added()
    }
}

/// A token as it was given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenValue {
    /// A string, which stands for a special token.
    Text(String),
    /// An object.
    Token(Token),
}

impl TokenValue {
    /// The token's text.
    pub(crate) fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Token(token) => &token.content,
        }
    }

    /// An object made special, as all of `special_tokens_map.json` are; a string as it is.
    pub(crate) fn special(self) -> Self {
        match self {
            Self::Token(token) => Self::Token(Token { special: true, ..token }),
            text @ Self::Text(_) => text,
        }
    }

    /// The special token that this stands for.
    pub(crate) fn to_special(&self) -> Token {
        match self {
            Self::Text(text) => Token::special(text),
            Self::Token(token) => Token { special: true, ..token.clone() },
        }
    }
}

/// The token that a string or an object with `content` gives.
pub(crate) fn value(value: &Value) -> Option<TokenValue> {
    match value.as_str() {
        Some(text) => Some(TokenValue::Text(text.to_owned())),
        None => Token::read(value).map(TokenValue::Token),
    }
}
