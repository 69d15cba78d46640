//! Python code of classes beside the parts: what they do to texts and ids themselves.

use regex::Regex;
use serde_json::json;
use std::sync::LazyLock;
use tokenizers::{NormalizerWrapper, Tokenizer};

use super::super::jinja::strings::is_space;
use super::super::special::SpecialTokens;
use super::parts::Code;

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::of_class;

    /// Texts are those of transformers 5.23.
    #[test]
    fn runs_of_a_token_are_decoded_once() {
        let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "Unigram", "unk_id": 3, "vocab": [
            ["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -3.0], ["a", -4.0], ["b", -4.0],
            ["▁a", -2.0]]}});
        let lasr = of_class(&json, "LasrTokenizer", &json!({"extra_ids": 2}));
        assert_eq!(lasr.decode(&[7, 7, 1, 7, 6, 6, 2, 2], false).unwrap(), "a ab</s>");
        assert_eq!(lasr.decode(&[7, 7, 1, 7, 6, 6, 2, 2], true).unwrap(), "a ab");
        assert_eq!(lasr.decode(&[5, 5, 1, 1, 5, 6], true).unwrap(), "aab");
        let parakeet = of_class(&json, "ParakeetTokenizer", &json!({"pad_token": "<pad>"}));
        assert_eq!(parakeet.decode(&[5, 5, 1, 1, 5, 6], true).unwrap(), "a a b");
    }
}
