//! Methods of strings that ask what they are made of.

use super::strings::is_space;
use super::text::is_printable;

/// `text.name()` for names that begin with `is`.
pub(crate) fn test(text: &str, name: &str) -> bool {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let has_case = || text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" | "isdigit" | "isnumeric" => all(char::is_numeric),
        "isidentifier" => {
            text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
                && text.chars().all(|c| c.is_alphanumeric() || c == '_')
        }
        "islower" => has_case() && !text.chars().any(char::is_uppercase),
        "isupper" => has_case() && !text.chars().any(char::is_lowercase),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        _ => is_title(text),
    }
}

fn is_title(text: &str) -> bool {
    let (mut in_word, mut has_words) = (false, false);
    for c in text.chars() {
        if (c.is_uppercase() && in_word) || (c.is_lowercase() && !in_word) {
            return false;
        }
        in_word = c.is_uppercase() || c.is_lowercase();
        has_words |= in_word;
    }
    has_words
}
