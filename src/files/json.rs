//! JSON as Python's `json` module reads and writes it, which makes Hugging Face's files: `NaN`, `Infinity` and
//! `-Infinity` are numbers, integers have any length, and a byte-order mark is no error.
//!
//! `serde_json` has no values for these. A number that is not finite becomes transformers' tagged spelling of it,
//! `{"__float__": "Infinity"}`; a long integer becomes the nearest float. [`Literals`] remembers how they were written,
//! so that a file that is written again has the same numbers. (The feature `arbitrary_precision` would keep long
//! integers, and change how all crates read numbers, the tokenizers too.) Where every digit counts, as in what chat
//! templates write out, [`parse_exact`] keeps integers of up to 128 bits, and refuses longer ones.

use serde_json::{Map, Value};
use std::path::Path;

use super::json_literals::{INTEGER_TAG, LongIntegers, TAG, replace_literals};
use crate::error::{Error, Result};

pub use super::json_literals::Literals;

/// Hint for half of a character.
const SURROGATE_HINT: &str =
    "write the whole character in its place, or \\ufffd, which stands for one that is unknown";

/// Parses the contents of a file; `path` is only for messages.
///
/// # Errors
/// Names line and column of the first fault.
pub fn parse(path: &Path, text: &[u8]) -> Result<Value> {
    parse_with_literals(path, text).map(|(value, _)| value)
}

/// Parses the contents of a file that holds an object.
pub fn parse_object(path: &Path, text: &[u8]) -> Result<Map<String, Value>> {
    parse_object_with_literals(path, text).map(|(object, _)| object)
}

/// Parses the contents of a file that holds an object, whose numbers will be written again.
pub fn parse_object_with_literals(path: &Path, text: &[u8]) -> Result<(Map<String, Value>, Literals)> {
    match parse_with_literals(path, text)? {
        (Value::Object(object), literals) if !object.contains_key(TAG) => Ok((object, literals)),
        _ => Err(Error::file(path, "expected a JSON object")),
    }
}

/// Parses the contents of a file that will be written again.
pub fn parse_with_literals(path: &Path, text: &[u8]) -> Result<(Value, Literals)> {
    read_file(path, text, LongIntegers::Nearest)
}

/// Parses the contents of a file whose integers a chat template writes out: those of up to 128 bits keep their digits,
/// for [`as_long_integer`].
///
/// # Errors
/// Names line and column of the first fault, or the place of a longer integer.
pub fn parse_exact(path: &Path, text: &[u8]) -> Result<Value> {
    read_file(path, text, LongIntegers::Exact).map(|(value, _)| value)
}

fn read_file(path: &Path, text: &[u8], integers: LongIntegers) -> Result<(Value, Literals)> {
    let error = |fault: Fault| Error::file(path, fault.to_string()).hint(fault.hint());
    let text = std::str::from_utf8(text).map_err(|e| error(Fault::Syntax(e.to_string())))?;
    read(text, integers).map_err(error)
}

/// Fault of a text that is to be JSON.
enum Fault {
    /// Message of a parser, with line and column.
    Syntax(String),
    /// Half of a character, with line and column.
    Surrogate(String),
    /// Place of an integer that is too long, and the integer.
    LongInteger(String),
}

impl Fault {
    fn of_parser(error: &serde_json::Error) -> Self {
        let message = error.to_string();
        match with_plain_surrogates(&message) {
            plain if plain == message => Self::Syntax(message),
            plain => Self::Surrogate(plain),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Surrogate(_) => SURROGATE_HINT,
            Self::Syntax(_) | Self::LongInteger(_) => "download the file again, or mend it by hand",
        }
    }

    /// Returns the message without the words that the text is not JSON.
    fn message(self) -> String {
        match self {
            Self::Syntax(message) | Self::Surrogate(message) | Self::LongInteger(message) => message,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax(message) | Self::Surrogate(message) => write!(f, "not valid JSON: {message}"),
            Self::LongInteger(message) => f.write_str(message),
        }
    }
}

const SURROGATE: &str = "half of a character, a surrogate alone such as \\ud800,";

/// Rewords `serde_json`'s message where Python would read half of a surrogate pair.
pub fn with_plain_surrogates(message: &str) -> String {
    ["lone leading surrogate in hex escape", "unexpected end of hex escape"]
        .iter()
        .fold(message.to_owned(), |text, words| text.replace(words, SURROGATE))
}

/// Parses `text`.
///
/// # Errors
/// Describes the first fault, with line and column.
pub fn parse_text(text: &str) -> std::result::Result<Value, String> {
    read(text, LongIntegers::Nearest).map(|(value, _)| value).map_err(Fault::message)
}

/// Parses `text` as [`parse_exact`] parses a file.
///
/// # Errors
/// Says that the text is not valid JSON, with line and column, or names the key of an integer that is too long.
pub fn parse_text_exact(text: &str) -> std::result::Result<Value, String> {
    read(text, LongIntegers::Exact).map(|(value, _)| value).map_err(|fault| fault.to_string())
}

fn read(text: &str, integers: LongIntegers) -> std::result::Result<(Value, Literals), Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (plain, tagged, literals) = replace_literals(text, integers);
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| Fault::of_parser(&e));
    if let Some((keys, literal)) = literals.too_long().filter(|_| integers == LongIntegers::Exact) {
        let place = if keys.is_empty() { String::new() } else { format!("key `{}`: ", keys.join(".")) };
        let message = format!("{place}the integer {literal} does not fit in a signed 128-bit integer");
        return Err(Fault::LongInteger(message));
    }
    // `plain` is as long as `text`, so that an error's line and column are those of the file.
    let value = parse(&plain)?;
    let value = if tagged == plain { value } else { parse(&tagged)? };
    Ok((value, literals))
}

/// Writes a value as JSON on one line: numbers that have no value of their own in their usual spelling, also
/// inside of arrays and objects.
pub fn shown(value: &Value) -> String {
    let float = || tagged(value, TAG).filter(|_| as_f64(value).is_some()).map(str::to_owned);
    let number = float().or_else(|| as_long_integer(value).map(|integer| integer.to_string()));
    match (value, number) {
        (_, Some(number)) => number,
        (Value::Array(items), _) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(","))
        }
        (Value::Object(object), _) => {
            let entry =
                |(key, value): (&String, &Value)| format!("{}:{}", Value::from(key.as_str()), shown(value));
            format!("{{{}}}", object.iter().map(entry).collect::<Vec<_>>().join(","))
        }
        _ => value.to_string(),
    }
}

/// Writes the value of the key `key` at the root of a file as [`shown`] does, a number or a list of them with all digits
/// of the file.
pub fn shown_as_written(value: &Value, key: &str, literals: &Literals) -> String {
    let number = |place: &[&str], value: &Value| {
        literals.spelling(place, value).map_or_else(|| shown(value), str::to_owned)
    };
    match value {
        Value::Array(items) => {
            let item = |(i, item): (usize, &Value)| number(&[key, &i.to_string()], item);
            format!("[{}]", items.iter().enumerate().map(item).collect::<Vec<_>>().join(","))
        }
        _ => number(&[key], value),
    }
}

/// Returns the text in an object of this key alone.
fn tagged<'a>(value: &'a Value, tag: &str) -> Option<&'a str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(tag)?.as_str()
}

/// Returns an integer that [`parse_exact`] kept, of more bits than [`Value`] holds. Any other object that looks like one
/// is the user's own.
pub fn as_long_integer(value: &Value) -> Option<i128> {
    let integer: i128 = tagged(value, INTEGER_TAG)?.parse().ok()?;
    (i64::try_from(integer).is_err() && u64::try_from(integer).is_err()).then_some(integer)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_text(text: &str) -> Result<(Value, Literals)> {
        parse_with_literals(Path::new("some.json"), text.as_bytes())
    }

    #[test]
    fn numbers_are_shown_as_python_writes_them() {
        for text in ["NaN", "-Infinity", r#"[1,Infinity,{"a":NaN}]"#, r#""NaN""#] {
            assert_eq!(shown(&parse_text(text).unwrap()), text);
        }
    }

    #[test]
    fn long_integers_stay_exact_where_asked() {
        let text = r#"{"a":18446744073709551616,"b":[-170141183460469231731687303715884105728,1e30,NaN]}"#;
        let value = parse_text_exact(text).unwrap();
        assert_eq!(as_long_integer(&value["a"]), Some(18_446_744_073_709_551_616));
        assert_eq!(as_long_integer(&value["b"][0]), Some(i128::MIN));
        assert_eq!(shown(&value), text.replace("1e30", "1e+30"));
        for long in ["170141183460469231731687303715884105728".to_owned(), "9".repeat(400)] {
            let error = parse_text_exact(&format!("{{\"a\": [1, {long}]}}")).unwrap_err();
            assert_eq!(
                error,
                format!("key `a.1`: the integer {long} does not fit in a signed 128-bit integer")
            );
        }
        let error = parse_text_exact(&"9".repeat(40)).unwrap_err();
        assert!(error.starts_with("the integer 9999"), "{error}");
        for own in [r#"{"__int__":"5"}"#, r#"{"__int__":"18446744073709551616","a":1}"#] {
            let value = parse_text_exact(own).unwrap();
            assert_eq!((as_long_integer(&value), shown(&value).as_str()), (None, own));
        }
    }

    #[test]
    fn minus_zero_stays_an_integer() {
        for parse in [parse_text, parse_text_exact] {
            let value = parse(r#"{"-0":-0,"a":[-0,-0.0,-01e0]}"#);
            assert!(value.is_err());
            let value = parse(r#"{"-0":-0,"a":[-0,-0.0]}"#).unwrap();
            assert_eq!(value.to_string(), r#"{"-0":0,"a":[0,-0.0]}"#);
        }
        let (value, literals) = read_text("{\n  \"a\": -0\n}").unwrap();
        assert_eq!(literals.write(&value), "{\n  \"a\": 0\n}");
    }

    #[test]
    fn long_integers_are_shown_as_written() {
        let (value, literals) =
            read_text(r#"{"a": 18446744073709551617, "b": [1, 18446744073709551616]}"#).unwrap();
        let shown = |key: &str| shown_as_written(&value[key], key, &literals);
        assert_eq!(
            (shown("a").as_str(), shown("b").as_str()),
            ("18446744073709551617", "[1,18446744073709551616]")
        );
    }

    #[test]
    fn half_a_character_is_named() {
        for text in [r#"{"a": "\ud800"}"#, r#"{"a": "\udc00x"}"#] {
            let error = read_text(text).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("some.json: not valid JSON: half of a character"), "{message}");
            assert!(message.contains("at line 1 column 1"), "{message}");
            assert!(error.hint_text().unwrap().contains("\\ufffd"), "{error:?}");
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
        let (value, literals) = read_text(text).unwrap();
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
        let (mut value, literals) = read_text(text).unwrap();
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
        let (value, literals) = read_text(text).unwrap();
        assert!(as_f64(&value["a"][2]).unwrap().is_nan());
        assert_eq!(as_f64(&value["a"][1]), Some(f64::INFINITY));
        assert_eq!(as_f64(&value["b"]), Some(f64::NEG_INFINITY));
        assert_eq!(value["NaN"], "NaN");
        assert_eq!(literals.write(&value), text);
        assert_eq!(as_f64(&read_text("-1e999").unwrap().0), Some(f64::NEG_INFINITY));
    }

    #[test]
    fn tagged_floats_stay_as_written() {
        let text = "{\n  \"a\": {\"__float__\":\"Infinity\"}\n}";
        let (value, literals) = read_text(text).unwrap();
        assert_eq!(as_f64(&value["a"]), Some(f64::INFINITY));
        assert_eq!(literals.write(&value), text);
    }

    #[test]
    fn marks_and_duplicates_read_as_in_python() {
        let (value, _) = read_text("\u{feff}{\"a\": 1, \"b\": 2, \"a\": 3}").unwrap();
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
            let message = read_text(text).unwrap_err().to_string();
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
