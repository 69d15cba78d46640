//! Tokens that a class puts around every text.

use serde_json::{Map, Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::super::settings::Settings;
use super::super::special::SpecialTokens;
use super::languages;
use super::parts::{Around, Class, Piece};

impl Class {
    /// Sets the tokens around texts; the special tokens have been added before.
    pub(crate) fn surround(
        &self,
        tokenizer: &mut Tokenizer,
        settings: &Settings,
        special: &SpecialTokens,
    ) -> tokenizers::Result<()> {
        let lookup = Lookup { tokenizer, settings, special };
        if let Some((before, after)) = self.around.tokens(&lookup)? {
            put_around(tokenizer, &before, &after)?;
        }
        Ok(())
    }
}

/// A token and its id.
pub(crate) type Surrounding = (String, u32);

/// Replaces the tokens that `tokenizer.json` puts around texts by these.
pub(crate) fn put_around(
    tokenizer: &mut Tokenizer,
    before: &[Surrounding],
    after: &[Surrounding],
) -> tokenizers::Result<()> {
    let piece = |(token, _): &Surrounding| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let pieces = |tokens: &[Surrounding]| tokens.iter().map(piece).collect::<Vec<_>>();
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let single = [pieces(before), vec![text("A")], pieces(after)].concat();
    let mut tokens = Map::new();
    for (token, id) in before.iter().chain(after) {
        tokens.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    let template = json!({"type": "TemplateProcessing", "single": single, "pair": [text("A"), text("B")],
                          "special_tokens": tokens});
    let processor: PostProcessorWrapper = serde_json::from_value(template)?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

/// Tokens before and after a text.
type Tokens = (Vec<Surrounding>, Vec<Surrounding>);

impl Around {
    /// Returns tokens in place of those of `tokenizer.json`, or `None` where those stay.
    fn tokens(self, lookup: &Lookup<'_>) -> tokenizers::Result<Option<Tokens>> {
        let is_stored = lookup.tokenizer.get_post_processor().is_some();
        let pieces = |pieces: &[Piece]| -> tokenizers::Result<Vec<Surrounding>> {
            pieces.iter().filter_map(|piece| lookup.piece(*piece).transpose()).collect()
        };
        Ok(match self {
            Self::StoredOr(..) if is_stored => None,
            Self::Stored => None,
            Self::IfStored(..) if !is_stored => None,
            Self::PutAll(before, after)
                if !before.iter().chain(after).all(|piece| lookup.is_named(*piece)) =>
            {
                None
            }
            Self::Nothing => Some((Vec::new(), Vec::new())),
            Self::Put(before, after)
            | Self::PutAll(before, after)
            | Self::StoredOr(before, after)
            | Self::IfStored(before, after) => Some((pieces(before)?, pieces(after)?)),
            Self::If(flag, then, _) if flag.is_set(lookup.settings) => then.tokens(lookup)?,
            Self::If(_, _, otherwise) => otherwise.tokens(lookup)?,
            Self::Whisper => Some((lookup.transcript()?, pieces(&[Piece::Named("eos_token")])?)),
        })
    }
}

/// Returns a token that is known by its id.
fn numbered(id: u32) -> Surrounding {
    (format!("<{id}>"), id)
}

/// Sources in which pieces are looked up.
struct Lookup<'a> {
    tokenizer: &'a Tokenizer,
    settings: &'a Settings,
    special: &'a SpecialTokens,
}

impl Lookup<'_> {
    /// Returns a token with its id, which is that of the unknown token if the vocabulary lacks it.
    fn token(&self, token: &str) -> tokenizers::Result<Surrounding> {
        let id = |token: &str| self.tokenizer.token_to_id(token);
        let unk = || self.special.get("unk_token").and_then(id);
        let id = id(token).or_else(unk).ok_or_else(|| format!("there is no token `{token}`"))?;
        Ok((token.to_owned(), id))
    }

    /// True if the name of a piece stands for a token.
    fn is_named(&self, piece: Piece) -> bool {
        matches!(piece, Piece::Named(name) if self.special.get(name).is_some())
    }

    /// Returns a piece with its id, or `None` for a name that stands for no token.
    fn piece(&self, piece: Piece) -> tokenizers::Result<Option<Surrounding>> {
        let language = |key: &str, default: &'static str| {
            self.settings.config.get(key).and_then(Value::as_str).unwrap_or(default).to_owned()
        };
        let token = match piece {
            Piece::At(id) => return Ok(Some(numbered(id))),
            Piece::NamedOr(name, id) => match self.special.get(name) {
                Some(token) => token.to_owned(),
                None => return Ok(Some(numbered(id))),
            },
            Piece::IfNamed(name) => match self.special.get(name) {
                Some(token) => token.to_owned(),
                None => return Ok(None),
            },
            Piece::Named(name) => self.special.get(name).unwrap_or(name).to_owned(),
            Piece::Language(key, default) => language(key, default),
            Piece::Underscored(key, default) => match language(key, default) {
                code if code.contains("__") => code,
                code => format!("__{code}__"),
            },
        };
        self.token(&token).map(Some)
    }

    /// Returns Whisper's tokens before a text: start, language, task, and that there are no time stamps.
    fn transcript(&self) -> tokenizers::Result<Vec<Surrounding>> {
        let setting = |key: &str| self.settings.config.get(key).and_then(Value::as_str);
        let start = self.token("<|startoftranscript|>")?;
        let mut tokens = Vec::new();
        if let Some(language) = setting("language") {
            let place = languages::whisper(language)
                .ok_or_else(|| format!("`language`: Whisper has no language `{language}`"))?;
            // Languages follow the start in Whisper's order, whatever the vocabulary calls them.
            tokens.push((format!("<{language}>"), start.1 + 1 + place));
        }
        match setting("task") {
            None => {}
            Some(task @ ("transcribe" | "translate")) => tokens.push(self.token(&format!("<|{task}|>"))?),
            Some(task) => {
                return Err(format!("`task`: expected transcribe or translate, found {task}").into());
            }
        }
        if !self.settings.is_set("predict_timestamps") {
            tokens.push(self.token("<|notimestamps|>")?);
        }
        tokens.insert(0, start);
        Ok(tokens)
    }
}
