//! Numbers of JSON that `serde_json` cannot hold: their spelling in the file, and the values that stand for them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Key of transformers' and mlx-lm's tagged spelling of numbers that are not finite.
pub(super) const TAG: &str = "__float__";

/// Key that stands before the digits of a long integer where it is kept exactly.
pub(super) const INTEGER_TAG: &str = "__int__";

/// Form of integers that [`Value`] cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LongIntegers {
    /// The nearest float.
    Nearest,
    /// The digits, tagged.
    Exact,
}

/// Numbers of a file that [`Value`] cannot hold: by their place in the file, the value that stands for each, and the
/// file's spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Literals(pub(super) BTreeMap<Place, (String, String)>);

/// Keys and indices from the root of a file to a value.
type Place = Vec<String>;

impl Literals {
    /// Returns keys to and digits of the first integer that does not fit in a signed 128-bit integer.
    pub(super) fn too_long(&self) -> Option<(&[String], &str)> {
        let is_integer = |literal: &str| literal.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let is_long = |literal: &str| is_integer(literal) && literal.parse::<i128>().is_err();
        let long = self.0.iter().find(|(_, (_, literal))| is_long(literal));
        long.map(|(place, (_, literal))| (place.as_slice(), literal.as_str()))
    }

    /// Returns the file's spelling of the number `value`, unless that is its usual one.
    pub(super) fn spelling(&self, place: &[&str], value: &Value) -> Option<&str> {
        let place: Place = place.iter().map(|&step| step.to_owned()).collect();
        let number = value.to_string();
        let (_, literal) = self.0.get(&place).filter(|(written, _)| *written == number)?;
        Some(literal)
    }

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
pub(super) fn replace_literals(text: &str, integers: LongIntegers) -> (String, String, Literals) {
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
            Some(Replacement::Zero) => {
                plain.push_str(token);
                tagged.push('0');
            }
            Some(Replacement::Float(x)) => {
                plain.push_str(token);
                match integers {
                    LongIntegers::Nearest => tagged.push_str(token),
                    LongIntegers::Exact => tagged.push_str(&json!({ INTEGER_TAG: token }).to_string()),
                }
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
    /// The integer `-0`, which is 0 to Python.
    Zero,
}

/// Returns the replacement for a literal outside of strings that `serde_json` reads as something else, or not at all.
fn replacement(token: &str) -> Option<Replacement> {
    match token {
        "NaN" => return Some(Replacement::Tagged("NaN")),
        "Infinity" => return Some(Replacement::Tagged("Infinity")),
        "-Infinity" => return Some(Replacement::Tagged("-Infinity")),
        "-0" => return Some(Replacement::Zero),
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
