//! Filters for HTML and addresses. Nothing is escaped unless a template asks for it.

use minijinja::Value;
use std::fmt::Write as _;

use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::values::{Outcome, Python, fail, iterate, pairs, type_name};
use crate::text::tokenizer::jinja::{budget, text};

/// Text with the five characters that mean something to HTML replaced.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

pub(crate) fn escape(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["s"], 1)?;
    let value = value.unwrap_or_default();
    if value.is_safe() { Ok(value) } else { Ok(Value::from_safe_string(escaped(&text::str(&value)?))) }
}

pub(crate) fn forceescape(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    Ok(Value::from_safe_string(escaped(&text::str(&value.unwrap_or_default())?)))
}

pub(crate) fn safe(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    Ok(Value::from_safe_string(text::str(&value.unwrap_or_default())?))
}

/// Computes `value|striptags`: the text without comments and tags, every run of white space as one space, entities
/// replaced by what they stand for.
pub(crate) fn striptags(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    let text = text::str(&value.unwrap_or_default())?;
    let text = without(&without(&text, "<!--", "-->"), "<", ">");
    let words: Vec<&str> = text
        .split(crate::text::tokenizer::jinja::strings::is_space)
        .filter(|word| !word.is_empty())
        .collect();
    Ok(Value::from(unescaped(&words.join(" "))))
}

fn without(text: &str, open: &str, close: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once(open)
        && let Some((_, after)) = tag.split_once(close)
    {
        out.push_str(before);
        rest = after;
    }
    out + rest
}

/// Entities replaced: those with numbers, and the names that escaping makes.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, entity)) = rest.split_once('&') {
        out.push_str(before);
        let found = entity.split_once(';').and_then(|(name, after)| Some((character(name)?, after)));
        let (c, after) = found.unwrap_or(('&', entity));
        out.push(c);
        rest = after;
    }
    out + rest
}

fn character(name: &str) -> Option<char> {
    let code = |digits: &str, radix: u32| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix(['x', 'X']) {
            Some(digits) => code(digits, 16),
            None => code(digits, 10),
        },
        None => Some(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" => '\u{a0}',
            "copy" => '©',
            "reg" => '®',
            "hellip" => '…',
            "ndash" => '–',
            "mdash" => '—',
            "laquo" => '«',
            "raquo" => '»',
            "euro" => '€',
            "times" => '×',
            _ => return None,
        }),
    }
}

/// Text for the path of an address, pairs for its query.
pub(crate) fn urlencode(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    let value = value.unwrap_or_default();
    let parts = match Python::from(&value) {
        Python::Str(text) => return quoted(text, "/").map(Value::from),
        Python::Dict => pairs(&value),
        Python::List | Python::Tuple | Python::View(_) | Python::Generator(_) | Python::Undefined => {
            let pair = |item: &Value| match <[Value; 2]>::try_from(iterate(item)?) {
                Ok([key, value]) => Ok((key, value)),
                Err(_) => fail("urlencode takes pairs"),
            };
            iterate(&value)?.iter().map(pair).collect::<Outcome<_>>()?
        }
        _ => return quoted(&text::str(&value)?, "/").map(Value::from),
    };
    let in_query =
        |value: &Value| -> Outcome<String> { Ok(quoted(&text::str(value)?, "")?.replace("%20", "+")) };
    let parts = parts
        .iter()
        .map(|(key, value)| Ok(format!("{}={}", in_query(key)?, in_query(value)?)))
        .collect::<Outcome<Vec<String>>>()?;
    Ok(Value::from(parts.join("&")))
}

fn quoted(text: &str, safe: &str) -> Outcome<String> {
    budget::take(text.len().saturating_mul(3))?;
    let mut out = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "_.-~".contains(c) || safe.contains(c) {
            out.push(c);
        } else {
            _ = write!(out, "%{byte:02X}");
        }
    }
    Ok(out)
}

/// Attributes of an element: ` name="value" ...`.
pub(crate) fn xmlattr(arguments: Arguments) -> Outcome {
    let [value, auto_space] = arguments.bind(["d", "autospace"], 1)?;
    let value = value.unwrap_or_default();
    if !matches!(Python::from(&value), Python::Dict) {
        return fail(format!("'{}' object has no items", type_name(&value)));
    }
    let mut parts = Vec::new();
    for (key, value) in pairs(&value) {
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let key = text::str(&key)?;
        if key.contains([' ', '\t', '\n', '\r', '\x0b', '\x0c', '/', '>', '=']) {
            return fail(format!("invalid character in attribute name: {key:?}"));
        }
        let text = text::str(&value)?;
        parts.push(format!("{}=\"{}\"", escaped(&key), if value.is_safe() { text } else { escaped(&text) }));
    }
    let joined = parts.join(" ");
    let spaced = auto_space.is_none_or(|space| space.is_true()) && !joined.is_empty();
    Ok(Value::from(if spaced { format!(" {joined}") } else { joined }))
}
