//! JSON as Python's `json` module reads and writes it, which makes Hugging Face's files: `NaN`, `Infinity` and
//! `-Infinity` are numbers, integers have any length, and a byte-order mark is no error.
//!
//! `serde_json` has no values for these. A number that is not finite becomes transformers' tagged spelling of it,
//! `{"__float__": "Infinity"}`; a long integer becomes the nearest float. [`Literals`] remembers how they were written,
//! so that a file that is written again has the same numbers. (The feature `arbitrary_precision` would keep long
//! integers, and change how all crates read numbers, the tokenizers too.)

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Key of transformers' and mlx-lm's tagged spelling of numbers that are not finite.
const TAG: &str = "__float__";

/// Parses the contents of a file; `path` is only for messages.
///
/// # Errors
/// Names line and column of the first fault.
pub fn parse(path: &Path, text: &[u8]) -> Result<Value> {
    parse_with_literals(path, text).map(|(value, _)| value)
}

/// Parses the contents of a file that holds an object.
pub fn parse_object(path: &Path, text: &[u8]) -> Result<Map<String, Value>> {
    match parse(path, text)? {
        Value::Object(object) if !object.contains_key(TAG) => Ok(object),
        _ => Err(Error::file(path, "expected a JSON object")),
    }
}

/// Parses the contents of a file that will be written again.
pub fn parse_with_literals(path: &Path, text: &[u8]) -> Result<(Value, Literals)> {
    let error = |e: String| {
        Error::file(path, format!("not valid JSON: {e}")).hint("download the file again, or mend it by hand")
    };
    let text = std::str::from_utf8(text).map_err(|e| error(e.to_string()))?;
    read(text).map_err(error)
}

/// Parses `text`.
///
/// # Errors
/// Describes the first fault, with line and column.
pub fn parse_text(text: &str) -> std::result::Result<Value, String> {
    read(text).map(|(value, _)| value)
}

fn read(text: &str) -> std::result::Result<(Value, Literals), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (plain, tagged, literals) = replace_literals(text);
    // `plain` is as long as `text`, so that an error's line and column are those of the file.
    let value: Value = serde_json::from_str(&plain).map_err(|e| e.to_string())?;
    let value =
        if tagged == plain { value } else { serde_json::from_str(&tagged).map_err(|e| e.to_string())? };
    Ok((value, literals))
}

/// Formats a value for messages: numbers that are not finite as Python writes them, also inside of arrays and objects.
pub fn shown(value: &Value) -> String {
    ["NaN", "Infinity", "-Infinity"]
        .iter()
        .fold(value.to_string(), |text, number| text.replace(&json!({ TAG: number }).to_string(), number))
}

/// Returns a number, also one that is not finite in transformers' tagged spelling.
pub fn as_f64(value: &Value) -> Option<f64> {
    if let Some(x) = value.as_f64() {
        return Some(x);
    }
    match value.get(TAG)?.as_str()? {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => None,
    }
}

/// Returns an integer from 0, also where it is written as a float: 64.0.
pub fn as_u64(value: &Value) -> Option<u64> {
    const EXACT: f64 = (1u64 << 53) as f64;
    let whole = |x: &f64| x.fract() == 0.0 && (0.0..=EXACT).contains(x);
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|x| x as u64))
}

/// True for values that are equal in Python, where 1 and 1.0 are, also inside of arrays and objects.
#[allow(clippy::float_cmp, reason = "equal numbers are meant")]
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => match (as_f64(a), as_f64(b)) {
            (Some(x), Some(y)) => a == b || (x == y && x.abs() < (1u64 << 53) as f64),
            _ => a == b,
        },
    }
}

/// Numbers of a file that [`Value`] cannot hold: by their place in the file, the value that stands for each, and the
/// file's spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Literals(BTreeMap<Place, (String, String)>);

/// Keys and indices from the root of a file to a value.
type Place = Vec<String>;

impl Literals {
    /// Writes `value` in indented lines, with every unchanged number in its original spelling.
    pub fn write(&self, value: &Value) -> String {
        let mut text = String::new();
        self.append(value, &mut Vec::new(), &mut text);
        text
    }

    fn append(&self, value: &Value, place: &mut Place, text: &mut String) {
        let depth = place.len();
        let compact = || value.to_string();
        match value {
            Value::Array(items) if !items.is_empty() => {
                for (i, item) in items.iter().enumerate() {
                    begin_line(text, if i == 0 { '[' } else { ',' }, depth + 1);
                    place.push(i.to_string());
                    self.append(item, place, text);
                    place.pop();
                }
                end_lines(text, ']', depth);
            }
            Value::Object(entries) if !entries.is_empty() && !entries.contains_key(TAG) => {
                for (i, (key, entry)) in entries.iter().enumerate() {
                    begin_line(text, if i == 0 { '{' } else { ',' }, depth + 1);
                    let _ = write!(text, "{}: ", Value::from(key.as_str()));
                    place.push(key.clone());
                    self.append(entry, place, text);
                    place.pop();
                }
                end_lines(text, '}', depth);
            }
            Value::Number(_) | Value::Object(_) => {
                let compact = compact();
                let written = self.0.get(place).filter(|(value, _)| *value == compact);
                text.push_str(written.map_or(&compact, |(_, literal)| literal));
            }
            _ => text.push_str(&compact()),
        }
    }
}

fn begin_line(text: &mut String, bracket: char, depth: usize) {
    let _ = write!(text, "{bracket}\n{}", "  ".repeat(depth));
}

fn end_lines(text: &mut String, bracket: char, depth: usize) {
    let _ = write!(text, "\n{}{bracket}", "  ".repeat(depth));
}

/// Returns `text` twice: with every number that [`Value`] cannot hold replaced by digits of the same length, and
/// replaced by a value that it can hold.
fn replace_literals(text: &str) -> (String, String, Literals) {
    let (mut plain, mut tagged) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut literals = BTreeMap::new();
    let mut walk = Walk::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            _ if is_literal(first) => rest.find(|c| !is_literal(c)).unwrap_or(rest.len()),
            _ => rest.find(|c| c == '"' || is_literal(c)).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        walk.pass(token);
        match replacement(token) {
            Some(Replacement::Tagged(name)) => {
                let value = json!({ TAG: name }).to_string();
                plain.extend(std::iter::repeat_n('1', token.len()));
                tagged.push_str(&value);
                literals.insert(walk.place(), (value, token.to_owned()));
            }
            Some(Replacement::Float(x)) => {
                plain.push_str(token);
                tagged.push_str(token);
                literals.insert(walk.place(), (Value::from(x).to_string(), token.to_owned()));
            }
            None => {
                plain.push_str(token);
                tagged.push_str(token);
            }
        }
    }
    (plain, tagged, Literals(literals))
}

/// Position in a text that is read token by token.
#[derive(Default)]
struct Walk {
    /// Index for every open array, and last key for every open object.
    open: Vec<Step>,
}

enum Step {
    Index(usize),
    Key { name: String, is_next: bool },
}

impl Walk {
    fn pass(&mut self, token: &str) {
        if token.starts_with('"') {
            if let Some(Step::Key { name, is_next: true }) = self.open.last_mut() {
                *name = serde_json::from_str(token).unwrap_or_default();
            }
            return;
        }
        for c in token.chars() {
            match (c, self.open.last_mut()) {
                ('[', _) => self.open.push(Step::Index(0)),
                ('{', _) => self.open.push(Step::Key { name: String::new(), is_next: true }),
                (']' | '}', _) => drop(self.open.pop()),
                (',', Some(Step::Index(index))) => *index += 1,
                (',', Some(Step::Key { is_next, .. })) => *is_next = true,
                (':', Some(Step::Key { is_next, .. })) => *is_next = false,
                _ => {}
            }
        }
    }

    fn place(&self) -> Place {
        let name = |step: &Step| match step {
            Step::Index(index) => index.to_string(),
            Step::Key { name, .. } => name.clone(),
        };
        self.open.iter().map(name).collect()
    }
}

/// Returns the bytes of the string that `text` begins with, quotes included; all of `text` where it does not end.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')
}

enum Replacement {
    Tagged(&'static str),
    Float(f64),
}

/// Returns the replacement for a literal outside of strings that `serde_json` reads as something else, or not at all.
fn replacement(token: &str) -> Option<Replacement> {
    match token {
        "NaN" => return Some(Replacement::Tagged("NaN")),
        "Infinity" => return Some(Replacement::Tagged("Infinity")),
        "-Infinity" => return Some(Replacement::Tagged("-Infinity")),
        _ => {}
    }
    let digits = token.strip_prefix('-').unwrap_or(token);
    let fits = token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok();
    // "infinity", "inf" and "nan" are numbers to Rust; a number with a leading zero is none to JSON.
    let begins_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let number = begins_with_digit(digits) && !digits.strip_prefix('0').is_some_and(begins_with_digit);
    let value: f64 = token.parse().ok().filter(|_| number && !fits)?;
    match value {
        f64::INFINITY => Some(Replacement::Tagged("Infinity")),
        f64::NEG_INFINITY => Some(Replacement::Tagged("-Infinity")),
        _ => digits.bytes().all(|b| b.is_ascii_digit()).then_some(Replacement::Float(value)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_file(text: &str) -> Result<(Value, Literals)> {
        parse_with_literals(Path::new("some.json"), text.as_bytes())
    }

    #[test]
    fn numbers_are_shown_as_python_writes_them() {
        for text in ["NaN", "-Infinity", r#"[1,Infinity,{"a":NaN}]"#, r#""NaN""#] {
            assert_eq!(shown(&parse_text(text).unwrap()), text);
        }
    }

    #[test]
    fn no_digit_is_lost() {
        let text = r#"{
  "a": 1000000000000000019884624838656,
  "b": [
    -18446744073709551616,
    18446744073709551615,
    -9223372036854775808,
    1e+300,
    0.1,
    3
  ],
  "\"c\\": "x \" 99999999999999999999999 \\",
  "d": {
    "e": 123456789012345678901234567890
  },
  "f": {},
  "g": []
}"#;
        let (value, literals) = read_file(text).unwrap();
        assert_eq!(literals.0.len(), 3, "{literals:?}");
        assert_eq!(literals.write(&value), text);
        let plain = Literals::default().write(&value);
        assert_eq!(plain, serde_json::to_string_pretty(&value).unwrap());
        assert_ne!(plain, text);
    }

    #[test]
    fn spellings_stay_where_they_are() {
        let text = r#"{
  "aa": 1000000000000000019884624838656,
  "bb": 1000000000000000019884624838657,
  "cc": 1e+30
}"#;
        let (mut value, literals) = read_file(text).unwrap();
        assert_eq!(literals.write(&value), text);
        value["bb"] = json!(5);
        assert!(literals.write(&value).contains("\"bb\": 5,"), "{}", literals.write(&value));
    }

    #[test]
    fn equal_goes_into_lists_and_objects() {
        assert!(equal(&json!({"a": [1, 2.0]}), &json!({"a": [1.0, 2]})));
        assert!(!equal(&json!({"a": [1, 2.5]}), &json!({"a": [1, 2]})));
        assert!(!equal(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
    }

    #[test]
    fn python_literals_are_numbers() {
        let text = "{\n  \"a\": [\n    0.0,\n    Infinity,\n    NaN\n  ],\n  \"NaN\": \"NaN\",\n  \"b\": -Infinity\n}";
        let (value, literals) = read_file(text).unwrap();
        assert!(as_f64(&value["a"][2]).unwrap().is_nan());
        assert_eq!(as_f64(&value["a"][1]), Some(f64::INFINITY));
        assert_eq!(as_f64(&value["b"]), Some(f64::NEG_INFINITY));
        assert_eq!(value["NaN"], "NaN");
        assert_eq!(literals.write(&value), text);
        assert_eq!(as_f64(&read_file("-1e999").unwrap().0), Some(f64::NEG_INFINITY));
    }

    #[test]
    fn tagged_floats_stay_as_written() {
        let text = "{\n  \"a\": {\"__float__\":\"Infinity\"}\n}";
        let (value, literals) = read_file(text).unwrap();
        assert_eq!(as_f64(&value["a"]), Some(f64::INFINITY));
        assert_eq!(literals.write(&value), text);
    }

    #[test]
    fn marks_and_duplicates_read_as_in_python() {
        let (value, _) = read_file("\u{feff}{\"a\": 1, \"b\": 2, \"a\": 3}").unwrap();
        assert_eq!(value, json!({"a": 3, "b": 2}));
    }

    #[test]
    fn errors_name_the_place_in_the_file() {
        for (text, place) in [
            ("{\"a\": [NaN, Infinity, -Infinity], \"b\" 1}", "line 1 column 39"),
            ("\u{feff}{\n \"a\": NaN,\n \"b\": nan}", "line 3 column 8"),
            ("{\"a\": -NaN}", "line 1 column 8"),
            ("{\"a\": Infinity1}", "line 1 column 7"),
            ("{\"a\": 01e999}", "line 1 column 8"),
            ("{\"a\": \"NaN", "line 1 column 10"),
        ] {
            let message = read_file(text).unwrap_err().to_string();
            assert!(message.contains("some.json") && message.ends_with(place), "{text}: {message}");
        }
        let message = parse(Path::new("x"), b"\"\xff\"").unwrap_err().to_string();
        assert!(message.contains("utf-8"), "{message}");
    }

    #[test]
    fn equal_numbers_are_equal() {
        assert!(equal(&json!(1), &json!(1.0)) && equal(&json!("a"), &json!("a")));
        assert!(
            !equal(&json!(1), &json!(2)) && !equal(&json!(1), &json!("1")) && !equal(&json!(1), &json!(true))
        );
        assert_eq!(
            (as_u64(&json!(64.0)), as_u64(&json!(64.5)), as_u64(&json!(-1.0))),
            (Some(64), None, None)
        );
    }
}
