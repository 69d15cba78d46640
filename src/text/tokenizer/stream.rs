//! Detokenizing one token at a time.

use super::class::may_be_cleaned;
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Failed attempts after which the next one waits until half as many tokens more are held back.
const PATIENCE: usize = 8;

/// Turns tokens that arrive one by one into text; made by [`Tokenizer::stream`].
///
/// The texts that [`push`](Self::push) and [`finish`](Self::finish) return, put together, are exactly what
/// [`Tokenizer::decode`] makes of all the tokens at once. Text is held back while it can still change: the
/// bytes of an unfinished character, and a run of byte tokens (`<0xE2>`), which decodes to its characters only
/// if the run as a whole is valid. The total cost is linear in the number of tokens, for any tokens.
///
/// Only the tokens of the last piece that was returned are kept and decoded together with the new ones (the
/// `prefix`), because a decoder treats the first token differently: it drops the space of `▁Once` there.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The prefix's tokens, then those held back.
    ids: Vec<u32>,
    prefix_len: usize,
    prefix_text: String,
    /// Number of held-back tokens at which decoding is tried next.
    retry_at: usize,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            ids: Vec::new(),
            prefix_len: 0,
            prefix_text: String::new(),
            retry_at: 0,
        }
    }

    /// Takes the next token and returns the text that has become final with it; often empty.
    ///
    /// # Errors
    /// Fails when the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let inner = &self.tokenizer.inner;
        let Some(token) = inner.id_to_token(id) else { return Ok(String::new()) };
        if self.skip_special && inner.get_added_vocabulary().is_special_token(&token) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let held = self.ids.len() - self.prefix_len;
        if held < self.retry_at || (self.tokenizer.byte_fallback && is_byte_token(&token)) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.ids, false)?;
        let may_change =
            text.ends_with(char::REPLACEMENT_CHARACTER) || self.tokenizer.cleans_up && may_be_cleaned(&text);
        if may_change || text.len() <= self.prefix_text.len() {
            // Few tokens: the next one may complete a character. Many: garbage, where trying every time would
            // cost quadratic time.
            self.retry_at = if held < PATIENCE { held + 1 } else { held + held / 2 };
            return Ok(String::new());
        }
        let new = self.after_prefix(&text);
        self.ids.drain(..self.prefix_len);
        self.prefix_len = self.ids.len();
        self.prefix_text = self.tokenizer.decode(&self.ids, false)?;
        self.retry_at = 0;
        Ok(new)
    }

    /// Returns the text that was still held back, unfinished characters as `U+FFFD`. Tokens pushed after this begin
    /// another text.
    ///
    /// # Errors
    /// Fails when the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        let done = std::mem::replace(self, Self::new(self.tokenizer, self.skip_special));
        if done.ids.len() == done.prefix_len {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&done.ids, false)?;
        Ok(done.after_prefix(&text))
    }

    /// `text` without the prefix's text.
    fn after_prefix(&self, text: &str) -> String {
        let new = text.strip_prefix(self.prefix_text.as_str()).unwrap_or_else(|| {
            // No decoder in use rewrites what came before; if one does, what is new begins where they part.
            let same = text.char_indices().zip(self.prefix_text.chars()).take_while(|((_, a), b)| a == b);
            let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
            text.get(end..).unwrap_or_default()
        });
        new.to_owned()
    }
}

/// True if a byte-fallback decoder reads `token` as a byte.
fn is_byte_token(token: &str) -> bool {
    token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use std::sync::LazyLock;

    use super::super::testing::{fixture, folder, sentencepiece};
    use super::super::tokenizer::Tokenizer;

    static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(fixture);
    static SENTENCEPIECE: LazyLock<Tokenizer> = LazyLock::new(|| {
        Tokenizer::from_dir(folder(&[("tokenizer.json", &sentencepiece(true).to_string())]).path()).unwrap()
    });

    /// The pieces that streaming returns, the last one from `finish`.
    fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut stream = tokenizer.stream(skip_special);
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    fn check(tokenizer: &Tokenizer, ids: &[u32]) {
        for skip_special in [true, false] {
            let all = tokenizer.decode(ids, skip_special).unwrap();
            assert_eq!(pieces(tokenizer, ids, skip_special).concat(), all, "{ids:?} {skip_special}");
        }
    }

    #[test]
    fn characters_come_whole() {
        let ids = BYTE_LEVEL.encode("a👍é", false).unwrap();
        assert_eq!(ids.len(), 7, "one byte per token, or this tests nothing");
        assert_eq!(pieces(&BYTE_LEVEL, &ids, true), ["a", "", "", "", "👍", "", "é", ""]);
        assert_eq!(pieces(&BYTE_LEVEL, &ids[..3], true), ["a", "", "", "\u{FFFD}"]);
    }

    #[test]
    fn spaces_are_kept_but_for_the_first() {
        let ids = SENTENCEPIECE.encode("a a  b", true).unwrap();
        assert_eq!(pieces(&SENTENCEPIECE, &ids, true), ["", "a", " a", "  ", "b", ""]);
        // Special tokens that are skipped must not make the next token look like the first.
        let [a, eos] = ["▁a", "</s>"].map(|token| SENTENCEPIECE.token_to_id(token).unwrap());
        assert_eq!(pieces(&SENTENCEPIECE, &[a, eos, a], true), ["a", "", " a", ""]);
    }

    #[test]
    fn byte_runs_come_when_they_are_decided() {
        let ids = SENTENCEPIECE.encode("é€a", false).unwrap();
        assert_eq!(pieces(&SENTENCEPIECE, &ids, true), ["", "", "", "", "", "", "é€a", ""]);
        // One bad byte spoils the run: decode turns all of it into replacement characters.
        let bad = ["<0xC3>", "<0xA9>", "<0xFF>"].map(|token| SENTENCEPIECE.token_to_id(token).unwrap());
        assert_eq!(pieces(&SENTENCEPIECE, &bad, true).concat(), "\u{FFFD}\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn garbage_takes_linear_time() {
        // Quadratic cost would be minutes here.
        for (tokenizer, token) in [(&*BYTE_LEVEL, "Ģ"), (&*SENTENCEPIECE, "<0x80>")] {
            let id = tokenizer.token_to_id(token).unwrap();
            check(tokenizer, &vec![id; 50_000]);
        }
    }

    proptest! {
        #[test]
        fn pieces_are_what_decode_gives(ids in prop::collection::vec(0u32..1030, 0..60)) {
            check(&BYTE_LEVEL, &ids);
            check(&SENTENCEPIECE, &ids.iter().map(|id| id % 268).collect::<Vec<_>>());
        }

        #[test]
        fn pieces_of_text_are_the_text(text in any::<String>(), words in "( |a|b|ab|é|<s>|\u{FFFD}){0,20}") {
            for text in [text, words] {
                check(&BYTE_LEVEL, &BYTE_LEVEL.encode(&text, true).unwrap());
                check(&SENTENCEPIECE, &SENTENCEPIECE.encode(&text, true).unwrap());
            }
        }
    }
}
