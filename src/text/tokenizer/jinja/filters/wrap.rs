//! Filters that break lines.

use minijinja::Value;
use std::fmt::Write as _;

use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::format::size;
use crate::text::tokenizer::jinja::string_parts::LineEnds;
use crate::text::tokenizer::jinja::values::{Outcome, Python, elements, fail, pairs, string};
use crate::text::tokenizer::jinja::{budget, string_parts, string_tests, text};

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
    let words = if is_set(break_words) { Words::Break } else { Words::Keep };
    let hyphens = if is_set(break_hyphens) { Hyphens::Break } else { Hyphens::Keep };
    let wrap_string = wrap_string.filter(|wrap| !wrap.is_none()).unwrap_or_else(|| Value::from("\n"));
    let wrap_string = string(&wrap_string)?;
    let wrapped = string_parts::lines(string(&value)?, LineEnds::Drop)
        .into_iter()
        .map(|line| wrap(&chunks(line, hyphens), width, words, hyphens).join(wrap_string))
        .collect::<Vec<String>>();
    budget::take(wrapped.iter().map(|line| line.len() + wrap_string.len()).sum())?;
    Ok(Value::from(wrapped.join(wrap_string)))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Python's `[^\d\W]`.
fn is_letter(c: char) -> bool {
    is_word(c) && !string_tests::is_decimal(c)
}

/// Python's `\w`.
fn is_word(c: char) -> bool {
    c == '_' || string_tests::is_alphanumeric(c)
}

/// Words and the space between them. A hyphen between letters ends a word, and dashes between words are one of
/// their own.
fn chunks(line: &str, hyphens: Hyphens) -> Vec<Vec<char>> {
    let chars: Vec<char> = line.chars().collect();
    let mut chunks = Vec::new();
    let mut rest = 0;
    while rest < chars.len() {
        let end = match hyphens {
            Hyphens::Break => end_of_chunk(&chars, rest),
            Hyphens::Keep => end_of_run(&chars, rest),
        };
        chunks.extend(chars.get(rest..end).map(<[char]>::to_vec));
        rest = end;
    }
    chunks
}

/// Treatment of words with hyphens: broken there, or kept whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hyphens {
    Break,
    Keep,
}

/// Returns the end of the run that begins at `start`, either of white space or of anything else.
fn end_of_run(chars: &[char], start: usize) -> usize {
    let Some(&first) = chars.get(start) else { return start };
    let run = chars.iter().skip(start).take_while(|c| is_space(**c) == is_space(first));
    start + run.count()
}

/// Returns the end of the chunk that begins at `start`, by the alternatives of textwrap's regular expression in turn.
fn end_of_chunk(chars: &[char], start: usize) -> usize {
    let run = end_of_run(chars, start);
    if chars.get(start).copied().is_some_and(is_space) {
        return run;
    }
    let dashes = dashes(chars, start);
    if dashes > 0 {
        return start + dashes;
    }
    for at in start + 1..run {
        if ends_in_hyphen(chars, at) {
            return at + 1;
        }
        if self::dashes(chars, at) > 0 {
            return at;
        }
    }
    run
}

/// Dashes at `at`, two or more, between what may end a word and what may begin one; 0 if there are none.
fn dashes(chars: &[char], at: usize) -> usize {
    let is_before = |c: &char| is_word(*c) || "!\"'&.,?".contains(*c);
    if !at.checked_sub(1).and_then(|before| chars.get(before)).is_some_and(is_before) {
        return 0;
    }
    let count = chars.iter().skip(at).take_while(|c| **c == '-').count();
    let word_follows = chars.get(at + count).copied().is_some_and(is_word);
    if count > 1 && word_follows { count } else { 0 }
}

/// True if a word may be broken behind the hyphen at `at`: two letters stand on each side, with or without a hyphen
/// between the two.
fn ends_in_hyphen(chars: &[char], at: usize) -> bool {
    let letter = |at: Option<usize>| at.and_then(|at| chars.get(at)).copied().is_some_and(is_letter);
    let hyphen = |at: Option<usize>| at.and_then(|at| chars.get(at)) == Some(&'-');
    let before = |places: usize| at.checked_sub(places);
    let after = |places: usize| Some(at + places);
    hyphen(Some(at))
        && letter(before(1))
        && (letter(before(2)) || (hyphen(before(2)) && letter(before(3))))
        && letter(after(1))
        && (letter(after(2)) || (hyphen(after(2)) && letter(after(3))))
}

/// Lines of at most `width` characters, as `textwrap.wrap` makes them.
fn wrap(chunks: &[Vec<char>], width: usize, words: Words, hyphens: Hyphens) -> Vec<String> {
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
            if words == Words::Break {
                let (head, tail) = chunk.split_at(end_of_part(&chunk, width - length, hyphens));
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

/// Treatment of words that are longer than a line: broken, or kept whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Break,
    Keep,
}

/// Returns the length of the first part of a long word, `most` characters or fewer: up to and including the last hyphen
/// that follows something else than hyphens, if there is one and words are broken at hyphens.
fn end_of_part(word: &[char], most: usize, hyphens: Hyphens) -> usize {
    let most = most.min(word.len());
    let part = word.get(..most).unwrap_or_default();
    let hyphen = if hyphens == Hyphens::Break { part.iter().rposition(|c| *c == '-') } else { None };
    hyphen.filter(|&at| part.iter().take(at).any(|c| *c != '-')).map_or(most, |at| at + 1)
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
