//! Methods of strings that ask what they are made of.

use icu_properties::props::{EnumeratedProperty, GeneralCategory, GeneralCategoryGroup, NumericType};

use super::strings::is_space;
use super::text::is_printable;

/// `text.name()` for names that begin with `is`.
pub(crate) fn test(text: &str, name: &str) -> bool {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let has_case = || text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
    match name {
        "isalnum" => all(is_alphanumeric),
        "isalpha" => all(is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(|c| matches!(NumericType::for_char(c), NumericType::Decimal | NumericType::Digit)),
        "isnumeric" => all(is_numeric),
        "isidentifier" => {
            text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
                && text.chars().all(|c| c.is_alphanumeric() || c == '_')
        }
        "islower" => has_case() && !text.chars().any(|c| c.is_uppercase() || is_title_case(c)),
        "isupper" => has_case() && !text.chars().any(|c| c.is_lowercase() || is_title_case(c)),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        _ => is_title(text),
    }
}

/// Python's `c.isdecimal()`.
pub(crate) fn is_decimal(c: char) -> bool {
    NumericType::for_char(c) == NumericType::Decimal
}

/// Python's `c.isalnum()`.
pub(crate) fn is_alphanumeric(c: char) -> bool {
    is_alphabetic(c) || is_numeric(c)
}

fn is_numeric(c: char) -> bool {
    NumericType::for_char(c) != NumericType::None
}

fn is_alphabetic(c: char) -> bool {
    GeneralCategoryGroup::Letter.contains(GeneralCategory::for_char(c))
}

/// True if `c` is a capital and a small letter in one, as `ǅ` is.
pub(crate) fn is_title_case(c: char) -> bool {
    !c.is_ascii() && GeneralCategory::for_char(c) == GeneralCategory::TitlecaseLetter
}

fn is_title(text: &str) -> bool {
    let (mut in_word, mut has_words) = (false, false);
    for c in text.chars() {
        let begins = c.is_uppercase() || is_title_case(c);
        if (begins && in_word) || (c.is_lowercase() && !in_word) {
            return false;
        }
        in_word = begins || c.is_lowercase();
        has_words |= in_word;
    }
    has_words
}
