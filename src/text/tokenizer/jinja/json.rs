//! `tojson`, as transformers defines it: Python's `json.dumps` without escapes for HTML.

use minijinja::Value;
use std::fmt::Write as _;

use super::arguments::Arguments;
use super::values::{Outcome, Python, elements, fail, integer, iterate, pairs, string, type_name};
use super::{budget, numbers};

/// Depth of nesting at which a value becomes an error.
const MOST_NESTED: usize = 128;

/// `json.dumps` with its options.
struct Json {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

/// `value|tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn filter(arguments: Arguments) -> Outcome {
    let names = ["x", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ensure_ascii, indent, separators, sort_keys] = arguments.bind(names, 1)?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| indentation(&indent)).transpose()?;
    let separators = match separators.filter(|separators| !separators.is_none()) {
        None => None,
        Some(separators) => Some(iterate(&separators)?),
    };
    let (item, key) = match separators.as_deref() {
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
        Some([item, key]) => (string(item)?.to_owned(), string(key)?.to_owned()),
        Some(_) => return fail("tojson takes two separators"),
    };
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let json = Json { indent, item, key, ensure_ascii: is_set(ensure_ascii), sort_keys: is_set(sort_keys) };
    let mut out = String::new();
    json.write(&mut out, &value.unwrap_or_default(), 0)?;
    Ok(Value::from(out))
}

/// The text that a level is indented by: it is given, or its width is.
fn indentation(indent: &Value) -> Outcome<String> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let width = usize::try_from(integer(indent)?.max(0)).unwrap_or(usize::MAX);
    budget::take(width)?;
    Ok(" ".repeat(width))
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Outcome<()> {
        let begin = out.len();
        if depth > MOST_NESTED {
            return fail("tojson: the value is nested too deeply");
        }
        match Python::from(value) {
            Python::None => out.push_str("null"),
            Python::Bool(flag) => out.push_str(if flag { "true" } else { "false" }),
            Python::Int(number) => out.push_str(&number.to_string()),
            Python::Float(number) => out.push_str(&float(number)),
            Python::Str(text) => self.string(out, text),
            Python::List | Python::Tuple => {
                let items = elements(value);
                return self
                    .container(out, ('[', ']'), depth, &items, |out, item| self.write(out, item, depth + 1));
            }
            Python::Dict => return self.dict(out, value, depth),
            _ => return fail(format!("tojson: cannot write {}", type_name(value))),
        }
        budget::take(out.len().saturating_sub(begin) + 8)
    }

    fn dict(&self, out: &mut String, value: &Value, depth: usize) -> Outcome<()> {
        let mut pairs = pairs(value);
        if self.sort_keys {
            crate::text::tokenizer::jinja::filters::order::sort_by(&mut pairs, |(key, _)| key)?;
        }
        self.container(out, ('{', '}'), depth, &pairs, |out, (key, value)| {
            match Python::from(key) {
                Python::Str(name) => self.string(out, name),
                Python::None => self.string(out, "null"),
                Python::Bool(flag) => self.string(out, if flag { "true" } else { "false" }),
                Python::Int(number) => self.string(out, &number.to_string()),
                Python::Float(number) => self.string(out, &float(number)),
                _ => return fail("tojson: keys must be str, int, float, bool or None"),
            }
            out.push_str(&self.key);
            self.write(out, value, depth + 1)
        })
    }

    fn container<T>(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: &[T],
        mut write: impl FnMut(&mut String, &T) -> Outcome<()>,
    ) -> Outcome<()> {
        let new_line = |out: &mut String, depth: usize| -> Outcome<()> {
            let Some(indent) = &self.indent else { return Ok(()) };
            budget::take(indent.len().saturating_mul(depth))?;
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
            Ok(())
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            budget::take(self.item.len() + self.key.len())?;
            new_line(out, depth + 1)?;
            write(out, item)?;
        }
        if !items.is_empty() {
            new_line(out, depth)?;
        }
        out.push(close);
        budget::take(8)
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn float(number: f64) -> String {
    match number {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        number if number.is_nan() => "NaN".to_owned(),
        number => numbers::repr(number),
    }
}
