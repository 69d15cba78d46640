//! Answers of a model: tokens go in, text comes out until the answer ends.

use super::boxed::FirstBox;
use super::stop::StopStrings;
use crate::error::{Error, Result};
use crate::text::tokenizer::{Stream, Tokenizer};

/// Conditions that end an answer before the model does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// Stop strings: texts that end the answer and are not part of it.
    pub strings: Vec<String>,
    /// True if the brace that closes the first `\boxed{` ends the answer.
    pub boxed: bool,
}

impl Ending {
    /// Returns the conditions after a check of the stop strings.
    ///
    /// # Errors
    /// When a string is empty: it would end every answer at once.
    pub fn new(strings: Vec<String>, boxed: bool) -> Result<Self> {
        if strings.iter().any(String::is_empty) {
            return Err(Error::usage("setting `stop` is empty").hint("give the text that ends the answer"));
        }
        Ok(Self { strings, boxed })
    }

    /// Returns the ids of the special tokens that are stop strings. Special tokens never show in a text, but can end
    /// it.
    pub fn special_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        self.strings.iter().filter_map(|string| tokenizer.special_token_id(string)).collect()
    }
}

/// Condition that ended an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Stop string, which is not part of the answer.
    String(String),
    /// Brace that closed the first box.
    Boxed,
}

/// Answer in progress.
pub struct Answer<'a> {
    stream: Stream<'a>,
    stop: StopStrings,
    first_box: Option<FirstBox>,
    text: String,
    end: Option<End>,
}

impl<'a> Answer<'a> {
    /// Returns an answer without text yet.
    pub fn new(tokenizer: &'a Tokenizer, ending: &Ending) -> Self {
        Self {
            stream: tokenizer.stream(true),
            stop: StopStrings::new(&ending.strings),
            first_box: ending.boxed.then(FirstBox::default),
            text: String::new(),
            end: None,
        }
    }

    /// Begins the answer with `text`, which the model was given to continue. Returns the part to show, which ends where
    /// the first box closes if boxes end the answer. Stop strings are looked for only in the model's own text.
    pub fn begin_with(&mut self, text: String) -> String {
        self.show(text)
    }

    /// Takes the next token. Returns the text that has become final with it; a possible beginning of a stop string is
    /// held back until it turns out not to be one.
    ///
    /// # Errors
    /// When the tokenizer cannot decode the tokens.
    pub fn push(&mut self, token: u32) -> Result<String> {
        let piece = self.stream.push(token)?;
        Ok(self.take(&piece))
    }

    /// Returns the condition that has ended the answer, or `None` while it continues. Nothing is shown after the end.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Ends the answer when there are no more tokens. Returns the rest of the text that was held back, the whole text,
    /// and the condition that ended it (`None` if the model did).
    ///
    /// # Errors
    /// When the tokenizer cannot decode the tokens.
    pub fn finish(mut self) -> Result<(String, String, Option<End>)> {
        let mut rest = String::new();
        if self.end.is_none() {
            let held = self.stream.finish()?;
            rest = self.take(&held);
            if self.end.is_none() {
                let held = self.stop.finish();
                rest.push_str(&self.show(held));
            }
        }
        Ok((rest, self.text, self.end))
    }

    fn take(&mut self, piece: &str) -> String {
        if self.end.is_some() {
            return String::new();
        }
        let (text, hit) = self.stop.push(piece);
        let shown = self.show(text);
        if self.end.is_none() {
            self.end = hit.map(End::String);
        }
        shown
    }

    /// Adds `text` to the answer, up to the brace that closes the first box. Returns the part that was added.
    fn show(&mut self, mut text: String) -> String {
        if let Some(end) = self.first_box.as_mut().and_then(|first| first.push(&text)) {
            text.truncate(end);
            self.end = Some(End::Boxed);
        }
        self.text.push_str(&text);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::path::Path;
    use std::sync::LazyLock;

    use super::*;
    use crate::text::tokenizer::Tokenizer;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/mobilellm-docs-1m");
        Tokenizer::from_dir(&dir).unwrap()
    });

    /// Returns the text shown piece by piece, the whole text, and the condition that ended it.
    fn answer(text: &str, strings: &[&str], boxed: bool) -> (String, String, Option<End>) {
        let ending = Ending::new(strings.iter().map(|&s| s.to_owned()).collect(), boxed).unwrap();
        let mut answer = Answer::new(&TOKENIZER, &ending);
        let mut shown = String::new();
        for token in TOKENIZER.encode(text, false).unwrap() {
            shown += &answer.push(token).unwrap();
            if answer.end().is_some() {
                break;
            }
        }
        let (rest, whole, end) = answer.finish().unwrap();
        (shown + &rest, whole, end)
    }

    #[test]
    fn boxes_and_stop_strings_end_the_text() {
        let text = r"so $\boxed{\frac{1}{2}}$ and \boxed{3}. END of it";
        let check = |strings: &[&str], boxed, expected: &str, end: Option<End>| {
            let (shown, whole, ended) = answer(text, strings, boxed);
            assert_eq!((shown.as_str(), whole.as_str(), ended), (expected, expected, end));
        };
        let string = |s: &str| Some(End::String(s.to_owned()));
        check(&[], false, text, None);
        check(&["END"], false, r"so $\boxed{\frac{1}{2}}$ and \boxed{3}. ", string("END"));
        check(&["END", "3}. E"], false, r"so $\boxed{\frac{1}{2}}$ and \boxed{", string("3}. E"));
        check(&["END"], true, r"so $\boxed{\frac{1}{2}}", Some(End::Boxed));
        check(&["it "], true, r"so $\boxed{\frac{1}{2}}", Some(End::Boxed));
        check(&["frac"], true, r"so $\boxed{\", string("frac"));
        // The box's own brace is held back as the beginning of a stop string that does not come.
        check(&["}$$"], true, r"so $\boxed{\frac{1}{2}}", Some(End::Boxed));
        check(&["it and more"], false, text, None);
    }

    #[test]
    fn special_tokens_may_end_a_text() {
        let ending = Ending::new(vec!["<|eot_id|>".into(), "word".into()], false).unwrap();
        assert_eq!(ending.special_tokens(&TOKENIZER), [TOKENIZER.token_to_id("<|eot_id|>").unwrap()]);
        assert!(Ending::new(vec![String::new()], false).is_err());
    }

    proptest! {
        #[test]
        fn token_borders_do_not_matter(text in "[ab{}\\\\é ]{0,30}", stop in "[ab}é]{1,4}") {
            let (shown, whole, end) = answer(&text, &[&stop], false);
            prop_assert_eq!(&shown, &whole);
            let expected = text.split(&stop).next().unwrap();
            prop_assert_eq!(shown, expected);
            prop_assert_eq!(end.is_some(), text.contains(&stop));
        }
    }
}
