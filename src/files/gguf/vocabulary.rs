//! Vocabulary of a model, as its metadata has it.

use std::borrow::Cow;
use std::collections::HashMap;

use super::gguf::Gguf;
use super::value::Value;
use crate::error::{Error, Result};

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenKind {
    fn of(number: usize) -> Option<Self> {
        Some(match number {
            // 0 is a kind that is not known.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// True for tokens that are found in a text before it is split.
    pub(super) fn is_found_first(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined | Self::Unknown)
    }
}

/// Tokens by their ids.
#[derive(Debug)]
pub(super) struct Vocabulary<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) tokens: Vec<Cow<'a, str>>,
    pub(super) kinds: Vec<TokenKind>,
}

/// Tokens that llama.cpp takes for control tokens by their texts, whatever kind the file gives them.
const CONTROLS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
    "<end_of_utterance>",
];

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";

impl<'a> Vocabulary<'a> {
    pub(super) fn read(gguf: &'a Gguf) -> Result<Self> {
        let texts = |value: &'a Value| -> Option<Vec<&'a str>> {
            value.as_list()?.iter().map(Value::as_text).collect()
        };
        let texts = gguf.read(TOKENS, "a list of texts", texts)?.ok_or_else(|| gguf.missing(TOKENS))?;
        let named = |(id, text): (usize, &'a str)| {
            if text.is_empty() { Cow::Owned(format!("[EMPTY_{id}]")) } else { Cow::Borrowed(text) }
        };
        let tokens: Vec<Cow<'a, str>> = texts.into_iter().enumerate().map(named).collect();
        let kinds = |value: &Value| -> Option<Vec<TokenKind>> {
            value.as_list()?.iter().map(|kind| TokenKind::of(kind.as_size()?)).collect()
        };
        let kinds = gguf.read(KINDS, "a list of kinds of tokens, from 1 to 6", kinds)?;
        let mut kinds = kinds.unwrap_or_else(|| vec![TokenKind::Normal; tokens.len()]);
        if kinds.len() != tokens.len() {
            return Err(
                gguf.error(KINDS, format!("has {} entries, there are {} tokens", kinds.len(), tokens.len()))
            );
        }
        for (kind, token) in kinds.iter_mut().zip(&tokens) {
            if *kind == TokenKind::Normal && CONTROLS.contains(&token.as_ref()) {
                *kind = TokenKind::Control;
            }
        }
        Ok(Self { gguf, tokens, kinds })
    }

    /// Returns each token's id.
    ///
    /// # Errors
    /// Fails if two tokens have one text.
    pub(super) fn ids(&self) -> Result<HashMap<&str, usize>> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(other) = ids.insert(token.as_ref(), id) {
                return Err(self.gguf.error(TOKENS, format!("tokens {other} and {id} are both {token:?}")));
            }
        }
        Ok(ids)
    }

    /// Returns the id under `tokenizer.ggml.NAME_token_id`, if there is one, and the token.
    pub(super) fn special(&self, name: &str) -> Result<Option<(usize, &str)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = self.gguf.size(&key)? else { return Ok(None) };
        let token = self.tokens.get(id).map(|token| (id, token.as_ref()));
        let outside = || self.gguf.error(&key, format!("is {id}, there are {} tokens", self.tokens.len()));
        token.map(Some).ok_or_else(outside)
    }

    /// Returns the scores of all tokens.
    pub(super) fn scores(&self) -> Result<Vec<f64>> {
        const KEY: &str = "tokenizer.ggml.scores";
        let scores = |value: &Value| -> Option<Vec<f64>> {
            value.as_list()?.iter().map(|score| score.as_number().filter(|score| score.is_finite())).collect()
        };
        let scores =
            self.gguf.read(KEY, "a list of numbers", scores)?.ok_or_else(|| self.gguf.missing(KEY))?;
        if scores.len() == self.tokens.len() {
            return Ok(scores);
        }
        Err(self
            .gguf
            .error(KEY, format!("has {} entries, there are {} tokens", scores.len(), self.tokens.len())))
    }

    /// Returns the pairs of tokens that are joined, best first.
    pub(super) fn merges(&self) -> Result<Vec<[&'a str; 2]>> {
        const KEY: &str = "tokenizer.ggml.merges";
        // A token may begin with a space, but has none inside.
        let pair = |value: &'a Value| {
            let text = value.as_text()?;
            let space = text.char_indices().skip(1).find(|(_, character)| *character == ' ')?.0;
            Some([&text[..space], &text[space + 1..]])
        };
        let merges =
            |value: &'a Value| -> Option<Vec<[&'a str; 2]>> { value.as_list()?.iter().map(pair).collect() };
        self.gguf.read(KEY, "a list of pairs of tokens", merges)?.ok_or_else(|| self.gguf.missing(KEY))
    }

    /// True if the token `name` is put at the texts' beginning or end.
    pub(super) fn adds(&self, name: &str, usual: bool) -> Result<bool> {
        Ok(self.gguf.boolean(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(usual))
    }

    /// Returns the error for a vocabulary that `what` is wrong with.
    pub(super) fn error(&self, message: &str) -> Error {
        self.gguf.error(TOKENS, message)
    }
}
