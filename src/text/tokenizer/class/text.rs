//! Python code of classes beside the parts: what they do to texts and ids themselves.

use regex::Regex;
use serde_json::json;
use std::sync::LazyLock;
use tokenizers::{ModelWrapper, NormalizerWrapper, Tokenizer};

use super::super::jinja::strings::is_space;
use super::super::settings::Settings;
use super::super::special::SpecialTokens;
use super::parts::{Class, Code, Extra, Flag};

/// Time stamps of Whisper.
static STAMP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"<\|(\d+\.\d+)\|>").ok());

impl Code {
    /// Returns token ids of a text that a class encodes in its own way; `None` for all others.
    pub(crate) fn encode(
        self,
        tokenizer: &Tokenizer,
        special: &SpecialTokens,
        text: &str,
        bos: bool,
    ) -> tokenizers::Result<Option<Vec<u32>>> {
        match self {
            Self::Infilling if text.contains(FILL) && special.get("fill_token").is_some() => {
                fill_in(tokenizer, special, text, bos).map(Some)
            }
            Self::SplitWords => {
                let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
                Ok(Some(tokenizer.encode_fast(words, bos)?.get_ids().to_vec()))
            }
            _ => Ok(None),
        }
    }

    /// Returns the ids that are decoded of `ids`.
    pub(crate) fn ids(
        self,
        tokenizer: &Tokenizer,
        special: &SpecialTokens,
        ids: &[u32],
        skip_special: bool,
    ) -> Vec<u32> {
        let mut ids = ids.to_vec();
        if self == Self::Ctc {
            let padding = special.get("pad_token").and_then(|token| tokenizer.token_to_id(token));
            ids.dedup();
            ids.retain(|id| Some(*id) != padding);
        }
        if self == Self::Transcript && skip_special {
            let unk = special.get("unk_token").and_then(|token| tokenizer.token_to_id(token));
            let id = |token: &str| tokenizer.token_to_id(token).or(unk);
            let begins_with_prompt = ids.first().is_some_and(|first| Some(*first) == id("<|startofprev|>"));
            if begins_with_prompt {
                let start = id("<|startoftranscript|>");
                let place = ids.iter().position(|id| Some(*id) == start);
                ids.drain(..place.unwrap_or(ids.len()));
            }
        }
        ids
    }

    /// Returns the text that a class makes of a decoded one.
    pub(crate) fn text(self, text: String) -> String {
        match self {
            Self::WordEnds => text.replace("</w>", " ").trim_matches(is_space).to_owned(),
            Self::Transcript => {
                STAMP.as_ref().map_or_else(|| text.clone(), |stamp| stamp.replace_all(&text, "").into_owned())
            }
            Self::None | Self::Infilling | Self::SplitWords | Self::Ctc => text,
        }
    }
}

/// Mark of the place that an infilling model fills.
const FILL: &str = "<FILL_ME>";

/// Returns token ids of a text with a gap: the text before it, the text after it, and the mark of what is to be filled in.
fn fill_in(
    tokenizer: &Tokenizer,
    special: &SpecialTokens,
    text: &str,
    bos: bool,
) -> tokenizers::Result<Vec<u32>> {
    let parts: Vec<&str> = text.split(FILL).collect();
    let &[before, after] = parts.as_slice() else {
        return Err(format!("`{FILL}` occurs {} times, expected once", parts.len() - 1).into());
    };
    if after.is_empty() {
        return Ok(tokenizer.encode_fast(before, bos)?.get_ids().to_vec());
    }
    let unk = special.get("unk_token").and_then(|token| tokenizer.token_to_id(token));
    let id = |token: &str| {
        let id = tokenizer.token_to_id(token).or(unk);
        id.ok_or_else(|| format!("there is no token `{token}` for infilling"))
    };
    // transformers takes these tokens whatever the settings call them, unless that is null.
    let named = |name: &str, token: &str| match special.get(name) {
        Some(_) => id(token),
        None => Err(format!("`{FILL}` needs a `{name}`, and the settings say that there is none")),
    };
    let prefix = named("prefix_token", "▁<PRE>")?;
    let suffix = named("suffix_token", "▁<SUF>")?;
    let middle = named("middle_token", "▁<MID>")?;
    let mut plain = tokenizer.clone();
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    plain.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(spaces)?))?;
    let bos_token = special.get("bos_token").filter(|_| bos);
    let mut ids: Vec<u32> = bos_token.map(id).transpose()?.into_iter().collect();
    ids.push(prefix);
    ids.extend(plain.encode_fast(format!(" {before}"), false)?.get_ids());
    ids.push(suffix);
    ids.extend(plain.encode_fast(after, false)?.get_ids());
    ids.push(middle);
    Ok(ids)
}

/// Spaces that transformers takes out of decoded texts where `clean_up_tokenization_spaces` is set, in its order.
const SPACES: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Returns the text without spaces before punctuation and contractions.
pub(crate) fn clean_up(text: &str) -> String {
    SPACES.iter().fold(text.to_owned(), |text, (spaced, clean)| text.replace(spaced, clean))
}

/// True if the end of the text may become a contraction or mark that is cleaned up, with more text after it.
pub(crate) fn may_be_cleaned(text: &str) -> bool {
    let begins = |spaced: &str| {
        (1..spaced.len()).any(|len| spaced.get(..len).is_some_and(|begin| text.ends_with(begin)))
    };
    SPACES.iter().any(|(spaced, _)| begins(spaced))
}

/// True if decoded texts are cleaned up: BPE's only where the settings insist.
pub(crate) fn cleans_up(tokenizer: &Tokenizer, settings: &Settings, class: Option<&Class>) -> bool {
    let insists = Flag {
        key: "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
        default: class.is_some_and(|class| matches!(class.extra, Extra::Entities(..))),
    };
    let is_bpe = matches!(tokenizer.get_model(), ModelWrapper::BPE(_));
    settings.is_set("clean_up_tokenization_spaces") && (!is_bpe || insists.is_set(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are those of transformers 5.23.
    #[test]
    fn spaces_are_cleaned_up() {
        assert_eq!(clean_up("do n't , it 's  . a ' b ' s"), "don't, it's . a'b's");
        for (text, expected) in [("a ", true), ("a n", true), ("a 'v", true), ("a.", false), ("an", false)] {
            assert_eq!(may_be_cleaned(text), expected, "{text}");
        }
    }
}
