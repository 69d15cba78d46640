//! Values as text: Python's `str` and `repr`.

use minijinja::Value;
use std::fmt::Write as _;

use super::values::{BoundMethod, Outcome, Python, View, ViewOf, elements, fail, pairs, type_name};
use super::{budget, globals, numbers};

/// Python's `str(value)`.
pub(crate) fn str(value: &Value) -> Outcome<String> {
    match Python::from(value) {
        Python::Undefined => Ok(String::new()),
        Python::Str(text) => {
            budget::take(text.len())?;
            Ok(text.to_owned())
        }
        _ => repr(value),
    }
}

/// Python's `repr(value)`.
pub(crate) fn repr(value: &Value) -> Outcome<String> {
    let mut out = String::new();
    write(&mut out, value, 0)?;
    Ok(out)
}

/// Python's `ascii(value)`: its `repr` with escapes for all that is not ASCII.
pub(crate) fn ascii(value: &Value) -> Outcome<String> {
    let written = repr(value)?;
    budget::take(written.len().saturating_mul(3))?;
    let mut out = String::new();
    for c in written.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            escape(&mut out, c);
        }
    }
    Ok(out)
}

fn escape(out: &mut String, c: char) {
    match u32::from(c) {
        code @ ..=0xff => _ = write!(out, "\\x{code:02x}"),
        code @ ..=0xffff => _ = write!(out, "\\u{code:04x}"),
        code => _ = write!(out, "\\U{code:08x}"),
    }
}

fn write(out: &mut String, value: &Value, depth: usize) -> Outcome<()> {
    let begin = out.len();
    if depth > 200 {
        return fail("a value is nested too deeply");
    }
    match Python::from(value) {
        Python::Undefined => out.push_str("Undefined"),
        Python::None => out.push_str("None"),
        Python::Bool(flag) => out.push_str(if flag { "True" } else { "False" }),
        Python::Int(number) => out.push_str(&number.to_string()),
        Python::Float(number) => out.push_str(&numbers::repr(number)),
        Python::Str(text) => quote(out, text, value.is_safe()),
        Python::Bytes(bytes) => quote_bytes(out, bytes),
        Python::List => return write_items(out, ("[", "]"), &elements(value), depth),
        Python::Tuple => {
            let items = elements(value);
            let close = if items.len() == 1 { ",)" } else { ")" };
            return write_items(out, ("(", close), &items, depth);
        }
        Python::Dict => return write_dict(out, value, depth),
        Python::View(view) => return write_view(out, view, depth),
        Python::Namespace => {
            out.push_str("<Namespace ");
            write_dict(out, value, depth)?;
            out.push('>');
        }
        Python::Macro => {
            out.push_str("<Macro ");
            write(out, &value.get_attr("name")?, depth + 1)?;
            out.push('>');
        }
        Python::Loop => {
            out.push_str("<LoopContext ");
            _ = write!(out, "{}/{}>", value.get_attr("index")?, value.get_attr("length")?);
        }
        Python::Generator(_) => out.push_str("<generator object>"),
        Python::Other if value.downcast_object_ref::<globals::Cycler>().is_some() => out.push_str("<Cycler>"),
        Python::Other if value.downcast_object_ref::<BoundMethod>().is_some() => {
            return fail("a method is written out, with no call behind its name");
        }
        Python::Other => _ = write!(out, "<{}>", type_name(value)),
    }
    budget::take(out.len().saturating_sub(begin) + 8)
}

fn write_items(out: &mut String, (open, close): (&str, &str), items: &[Value], depth: usize) -> Outcome<()> {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(out, item, depth + 1)?;
    }
    out.push_str(close);
    budget::take(8)
}

fn write_dict(out: &mut String, value: &Value, depth: usize) -> Outcome<()> {
    out.push('{');
    for (i, (key, item)) in pairs(value).iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(out, key, depth + 1)?;
        out.push_str(": ");
        write(out, item, depth + 1)?;
    }
    out.push('}');
    budget::take(8)
}

fn write_view(out: &mut String, view: &View, depth: usize) -> Outcome<()> {
    match view.of {
        ViewOf::Range(start, stop, 1) => _ = write!(out, "range({start}, {stop})"),
        ViewOf::Range(start, stop, step) => _ = write!(out, "range({start}, {stop}, {step})"),
        ViewOf::Keys => write_items(out, ("dict_keys([", "])"), &view.items, depth)?,
        ViewOf::Values => write_items(out, ("dict_values([", "])"), &view.items, depth)?,
        ViewOf::Items => write_items(out, ("dict_items([", "])"), &view.items, depth)?,
    }
    Ok(())
}

fn quote(out: &mut String, text: &str, safe: bool) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    if safe {
        out.push_str("Markup(");
    }
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => escape(out, c),
        }
    }
    out.push(quote);
    if safe {
        out.push(')');
    }
}

fn quote_bytes(out: &mut String, bytes: &[u8]) {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    out.push('b');
    out.push(quote);
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            byte if char::from(byte) == quote => out.extend(['\\', quote]),
            b' '..=b'~' => out.push(char::from(byte)),
            byte => _ = write!(out, "\\x{byte:02x}"),
        }
    }
    out.push(quote);
}

/// Python's `c.isprintable()`, which is what Rust leaves as it is behind another character.
pub(crate) fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && !format!("{:?}", format!("a{c}")).contains('\\'))
}
