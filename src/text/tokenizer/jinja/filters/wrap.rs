//! Filters that break lines.

use minijinja::Value;
use std::fmt::Write as _;

use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::format::size;
use crate::text::tokenizer::jinja::values::{Outcome, Python, elements, fail, pairs, string};
use crate::text::tokenizer::jinja::{budget, string_parts, text};

/// `s|wordwrap(width=79, break_long_words=True, wrapstring="\n", break_on_hyphens=True)`.
pub(crate) fn wordwrap(arguments: Arguments) -> Outcome {
    let names = ["s", "width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [value, width, break_words, wrap_string, break_hyphens] = arguments.bind(names, 1)?;
    let value = value.unwrap_or_default();
    let width = size(width.as_ref(), 79)?;
    if width == 0 {
        return fail("invalid width 0");
    }
    let is_set = |flag: Option<Value>| flag.is_none_or(|flag| flag.is_true());
    let (break_words, break_hyphens) = (is_set(break_words), is_set(break_hyphens));
    let wrap_string = wrap_string.filter(|wrap| !wrap.is_none()).unwrap_or_else(|| Value::from("\n"));
    let wrap_string = string(&wrap_string)?;
    let wrapped = string_parts::lines(string(&value)?, false)
        .into_iter()
        .map(|line| wrap(&chunks(line, break_hyphens), width, break_words).join(wrap_string))
        .collect::<Vec<String>>();
    budget::take(wrapped.iter().map(|line| line.len() + wrap_string.len()).sum())?;
    Ok(Value::from(wrapped.join(wrap_string)))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Words and the space between them; a hyphen between letters ends a word.
fn chunks(line: &str, break_hyphens: bool) -> Vec<Vec<char>> {
    let chars: Vec<char> = line.chars().collect();
    let is_letter = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_alphabetic());
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut begins = true;
    for (i, &c) in chars.iter().enumerate() {
        let last_is_space = chunks.last().and_then(|chunk| chunk.last()).copied().is_some_and(is_space);
        match chunks.last_mut() {
            Some(chunk) if !begins && last_is_space == is_space(c) => chunk.push(c),
            _ => chunks.push(vec![c]),
        }
        begins = break_hyphens
            && c == '-'
            && is_letter(i.checked_sub(1))
            && is_letter(i.checked_sub(2))
            && is_letter(Some(i + 1))
            && (is_letter(Some(i + 2)) || (chars.get(i + 2) == Some(&'-') && is_letter(Some(i + 3))));
    }
    chunks
}

/// Lines of at most `width` characters, as `textwrap.wrap` makes them.
fn wrap(chunks: &[Vec<char>], width: usize, break_words: bool) -> Vec<String> {
    let mut rest: std::collections::VecDeque<Vec<char>> = chunks.iter().cloned().collect();
    let mut lines: Vec<String> = Vec::new();
    let blank = |chunk: &Vec<char>| chunk.iter().copied().all(is_space);
    while !rest.is_empty() {
        if !lines.is_empty() && rest.front().is_some_and(blank) {
            rest.pop_front();
        }
        let (mut line, mut length) = (Vec::new(), 0);
        while let Some(chunk) = rest.pop_front() {
            if length + chunk.len() > width {
                rest.push_front(chunk);
                break;
            }
            length += chunk.len();
            line.push(chunk);
        }
        if rest.front().is_some_and(|chunk| chunk.len() > width)
            && let Some(chunk) = rest.pop_front()
        {
            if break_words {
                let (head, tail) = chunk.split_at((width - length).min(chunk.len()));
                line.push(head.to_vec());
                rest.push_front(tail.to_vec());
            } else if line.is_empty() {
                line.push(chunk);
            } else {
                rest.push_front(chunk);
            }
        }
        if line.last().is_some_and(blank) {
            line.pop();
        }
        if !line.is_empty() {
            lines.push(line.into_iter().flatten().collect());
        }
    }
    lines
}

/// `value|pprint`: Python's `pprint.pformat`, with keys sorted; long strings are not broken.
pub(crate) fn pprint(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    let mut out = String::new();
    pretty(&mut out, &value.unwrap_or_default(), 0, 0, 0)?;
    Ok(Value::from(out))
}

fn pretty(out: &mut String, value: &Value, indent: usize, allowance: usize, depth: usize) -> Outcome<()> {
    if depth > 100 {
        return fail("a value is nested too deeply");
    }
    let sorted = sorted_by_key(value, depth)?;
    let flat = text::repr(&sorted)?;
    budget::take(indent.saturating_add(flat.len()))?;
    if flat.chars().count() + indent + allowance <= 80 {
        out.push_str(&flat);
        return Ok(());
    }
    let (open, close, items) = match Python::from(&sorted) {
        Python::List => ("[", "]", elements(&sorted)),
        Python::Tuple => ("(", ")", elements(&sorted)),
        Python::Dict => return pretty_dict(out, &sorted, indent, allowance, depth),
        _ => {
            out.push_str(&flat);
            return Ok(());
        }
    };
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            _ = write!(out, ",\n{}", " ".repeat(indent + 1));
        }
        let is_last = i + 1 == items.len();
        pretty(out, item, indent + 1, if is_last { allowance + 1 } else { 1 }, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

fn pretty_dict(
    out: &mut String,
    value: &Value,
    indent: usize,
    allowance: usize,
    depth: usize,
) -> Outcome<()> {
    let pairs = pairs(value);
    out.push('{');
    for (i, (key, item)) in pairs.iter().enumerate() {
        if i > 0 {
            _ = write!(out, ",\n{}", " ".repeat(indent + 1));
        }
        let key = text::repr(key)?;
        out.push_str(&key);
        out.push_str(": ");
        let is_last = i + 1 == pairs.len();
        let indent = indent + 3 + key.chars().count();
        pretty(out, item, indent, if is_last { allowance + 1 } else { 1 }, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

/// Dicts in `value` by their keys, where those have an order.
fn sorted_by_key(value: &Value, depth: usize) -> Outcome {
    budget::take(16)?;
    if depth > 100 {
        return fail("a value is nested too deeply");
    }
    let within = |item: &Value| sorted_by_key(item, depth + 1);
    Ok(match Python::from(value) {
        Python::List => crate::text::tokenizer::jinja::values::list(
            elements(value).iter().map(within).collect::<Outcome<_>>()?,
        ),
        Python::Tuple => crate::text::tokenizer::jinja::values::tuple(
            elements(value).iter().map(within).collect::<Outcome<_>>()?,
        ),
        Python::Dict => {
            let mut pairs = pairs(value);
            super::order::sort_by(&mut pairs, |(key, _)| key)?;
            let pairs = pairs
                .into_iter()
                .map(|(key, item)| Ok((key, within(&item)?)))
                .collect::<Outcome<Vec<_>>>()?;
            pairs.into_iter().collect::<crate::text::tokenizer::jinja::values::Dict>().into_value()
        }
        _ => value.clone(),
    })
}
