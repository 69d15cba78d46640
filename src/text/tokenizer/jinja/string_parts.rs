//! Splitting strings.

use minijinja::Value;

use super::arguments::Arguments;
use super::budget;
use super::strings::is_space;
use super::values::{Outcome, fail, integer, list, string, tuple};

/// End of a text that splitting begins at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SplitFrom {
    Left,
    Right,
}

/// Treatment of the characters that end lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineEnds {
    Keep,
    Drop,
}

/// Computes `text.split(sep, maxsplit)`, or `rsplit` from the right.
pub(crate) fn split(text: &str, from: SplitFrom, arguments: Arguments) -> Outcome {
    let [separator, most] = arguments.bind(["sep", "maxsplit"], 0)?;
    let separator = separator.filter(|separator| !separator.is_none());
    let most = most.map_or(Ok(-1), |most| integer(&most))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let parts: Vec<&str> = match separator.as_ref().map(string).transpose()? {
        Some("") => return fail("empty separator"),
        Some(separator) if from == SplitFrom::Right => {
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(most.saturating_add(1), separator).collect(),
        None => words(text, most, from),
    };
    budget::take_items(parts.len())?;
    Ok(list(parts.into_iter().map(Value::from).collect()))
}

/// Parts between runs of space. When `most` splits were made, the rest keeps the space at its far end.
fn words(text: &str, most: usize, from: SplitFrom) -> Vec<&str> {
    let from_right = from == SplitFrom::Right;
    let mut parts = Vec::new();
    let mut rest = text;
    let trimmed = |rest: &'_ str| -> usize {
        if from_right {
            rest.trim_end_matches(is_space).len()
        } else {
            rest.trim_start_matches(is_space).len()
        }
    };
    loop {
        let length = trimmed(rest);
        rest =
            if from_right { rest.get(..length) } else { rest.get(rest.len() - length..) }.unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        let space = if from_right {
            rest.char_indices().rev().find(|&(_, c)| is_space(c))
        } else {
            rest.char_indices().find(|&(_, c)| is_space(c))
        };
        let Some((at, c)) = space.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let (before, after) =
            (rest.get(..at).unwrap_or_default(), rest.get(at + c.len_utf8()..).unwrap_or_default());
        parts.push(if from_right { after } else { before });
        rest = if from_right { before } else { after };
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// True if `c` ends a line in Python.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Lines of `text`.
pub(crate) fn lines(text: &str, ends: LineEnds) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some((at, end)) = rest.char_indices().find(|&(_, c)| is_line_end(c)) else {
            lines.push(rest);
            break;
        };
        let after =
            at + if rest.get(at..).is_some_and(|end| end.starts_with("\r\n")) { 2 } else { end.len_utf8() };
        lines.push(rest.get(..if ends == LineEnds::Keep { after } else { at }).unwrap_or_default());
        rest = rest.get(after..).unwrap_or_default();
    }
    lines
}

/// `text.splitlines(keepends)`.
pub(crate) fn split_lines(text: &str, arguments: Arguments) -> Outcome {
    let [keep_ends] = arguments.bind(["keepends"], 0)?;
    let ends = if keep_ends.is_some_and(|keep| keep.is_true()) { LineEnds::Keep } else { LineEnds::Drop };
    let lines = lines(text, ends);
    budget::take_items(lines.len())?;
    Ok(list(lines.into_iter().map(Value::from).collect()))
}

/// Computes `text.partition(sep)`, or `rpartition` from the right.
pub(crate) fn partition(text: &str, from: SplitFrom, arguments: Arguments) -> Outcome {
    let [separator] = arguments.bind(["/sep"], 1)?;
    let separator = separator.unwrap_or_default();
    let separator = string(&separator)?;
    if separator.is_empty() {
        return fail("empty separator");
    }
    let halves = match from {
        SplitFrom::Left => text.split_once(separator),
        SplitFrom::Right => text.rsplit_once(separator),
    };
    let parts = match halves {
        Some((before, after)) => [before, separator, after],
        None if from == SplitFrom::Right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(tuple(parts.map(Value::from).to_vec()))
}
