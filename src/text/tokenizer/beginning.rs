//! Tokens that a tokenizer puts around a text, and those that texts begin with.

use super::tokenizer::Tokenizer;
use crate::error::Result;

impl Tokenizer {
    /// Returns the id of the token that a text begins with: the `bos_token`, or where none is named what the
    /// post-processor puts first.
    pub fn first_token_id(&self) -> Option<u32> {
        let put_first = || {
            let (with, without) = (self.encode("Hi", true).ok()?, self.encode("Hi", false).ok()?);
            with.first().copied().filter(|first| without.first() != Some(first))
        };
        self.bos_token_id().or_else(put_first)
    }

    /// Returns the ids that [`encode`](Self::encode) puts around a text with `bos`, those before it first: usually
    /// BOS alone, for some models several tokens, an EOS too, or nothing.
    ///
    /// # Errors
    /// Fails as [`encode`](Self::encode) does.
    pub fn around(&self) -> Result<Vec<u32>> {
        let (mut with, without) = (self.encode("", true)?, self.encode("", false)?);
        // Some tokenizers make a token of an empty text.
        let inside = with.windows(without.len().max(1)).position(|ids| ids == without);
        if let Some(start) = inside {
            with.drain(start..start + without.len());
        }
        Ok(with)
    }

    /// Returns the ids that every window of a text begins with, where the text begins with `tokens`: as many of
    /// [`around`](Self::around) as the text has before it, so that a text written out without them, as some chat
    /// templates do, stays without them. Where the tokenizer puts nothing around texts and a template wrote these
    /// `tokens`, it is the `bos_token` if they begin with it.
    ///
    /// # Errors
    /// Fails as [`encode`](Self::encode) does.
    pub(crate) fn beginning(&self, tokens: &[u32], written_by_template: bool) -> Result<Vec<u32>> {
        let around = self.around()?;
        let shared = around.iter().zip(tokens).take_while(|(expected, found)| expected == found);
        if !around.is_empty() {
            return Ok(shared.map(|(id, _)| *id).collect());
        }
        let bos = self.bos_token_id().filter(|bos| written_by_template && tokens.first() == Some(bos));
        Ok(bos.into_iter().collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{fixture, folder, sentencepiece};
    use super::*;

    fn open(json: &serde_json::Value) -> Tokenizer {
        let config = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
        let files = [("tokenizer.json", json.to_string()), ("tokenizer_config.json", config.to_owned())];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Tokenizer::from_dir(folder(&files).path()).unwrap()
    }

    #[test]
    fn windows_begin_as_texts_do() {
        let tokenizer = fixture();
        assert_eq!(tokenizer.around().unwrap(), [0]);
        assert_eq!(tokenizer.beginning(&[0, 7, 8], false).unwrap(), [0]);
        assert!(tokenizer.beginning(&[7, 0], true).unwrap().is_empty(), "a template left it out");
    }

    #[test]
    fn what_comes_after_a_text_is_no_beginning() {
        let mut json = sentencepiece(true);
        json["post_processor"] = serde_json::json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}});
        let tokenizer = open(&json);
        assert_eq!(tokenizer.around().unwrap(), [1, 2]);
        let text = tokenizer.encode("a b", true).unwrap();
        assert_eq!(tokenizer.beginning(&text, false).unwrap(), [1]);
    }

    #[test]
    fn bos_of_a_template_counts_where_nothing_is_added() {
        let tokenizer = open(&sentencepiece(false));
        assert!(tokenizer.around().unwrap().is_empty());
        assert_eq!(tokenizer.beginning(&[1, 5], true).unwrap(), [1]);
        assert!(tokenizer.beginning(&[1, 5], false).unwrap().is_empty(), "a text that has it is only a text");
        assert!(tokenizer.beginning(&[5], true).unwrap().is_empty());
    }
}
