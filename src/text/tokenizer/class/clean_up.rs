//! Spaces before punctuation and contractions, which `clean_up_tokenization_spaces` takes out of decoded texts.

use tokenizers::{ModelWrapper, Tokenizer};

use super::super::settings::Settings;
use super::parts::{Class, Extra, Flag};

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
    let insists = Flag::Setting {
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
