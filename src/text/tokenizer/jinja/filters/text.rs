//! Filters over texts.

use minijinja::Value;

use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::format::size;
use crate::text::tokenizer::jinja::string_parts::LineEnds;
use crate::text::tokenizer::jinja::values::{Outcome, fail, integer, string as as_string};
use crate::text::tokenizer::jinja::{budget, percent, string_parts, strings, text};

/// The one argument as text.
fn only(arguments: Arguments) -> Outcome<String> {
    let [value] = arguments.bind(["s"], 1)?;
    text::str(&value.unwrap_or_default())
}

pub(crate) fn capitalize(arguments: Arguments) -> Outcome {
    Ok(Value::from(strings::capitalize(&only(arguments)?)))
}

pub(crate) fn lower(arguments: Arguments) -> Outcome {
    Ok(Value::from(only(arguments)?.to_lowercase()))
}

pub(crate) fn upper(arguments: Arguments) -> Outcome {
    Ok(Value::from(only(arguments)?.to_uppercase()))
}

/// `value|string`, which keeps markup.
pub(crate) fn string(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["object"], 1)?;
    let value = value.unwrap_or_default();
    if value.as_str().is_some() { Ok(value) } else { text::str(&value).map(Value::from) }
}

pub(crate) fn center(arguments: Arguments) -> Outcome {
    let [value, width] = arguments.bind(["value", "width"], 1)?;
    let width = width.map_or(Ok(80), |width| integer(&width))?;
    strings::pad(&text::str(&value.unwrap_or_default())?, "center", width, " ").map(Value::from)
}

/// Words with a capital and the rest small; a word begins behind space, `-` and opening brackets.
pub(crate) fn title(arguments: Arguments) -> Outcome {
    let text = only(arguments)?;
    let is_break = |c: char| strings::is_space(c) || "-({[<".contains(c);
    let mut out = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let at_break = rest.starts_with(is_break);
        let end = rest.find(|c| is_break(c) != at_break).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let (first, others) = part.split_at(part.chars().next().map_or(0, char::len_utf8));
        out.push_str(&first.to_uppercase());
        out.push_str(&others.to_lowercase());
        rest = after;
    }
    Ok(Value::from(out))
}

pub(crate) fn trim(arguments: Arguments) -> Outcome {
    let [value, chars] = arguments.bind(["value", "chars"], 1)?;
    let text = text::str(&value.unwrap_or_default())?;
    let chars = chars.filter(|chars| !chars.is_none());
    Ok(Value::from(strings::strip(&text, chars.as_ref().map(as_string).transpose()?)))
}

pub(crate) fn replace(arguments: Arguments) -> Outcome {
    let [value, old, new, count] = arguments.bind(["s", "old", "new", "count"], 3)?;
    let part = |value: Option<Value>| text::str(&value.unwrap_or_default());
    let count = count.filter(|count| !count.is_none()).map_or(Ok(-1), |count| integer(&count))?;
    strings::replace(&part(value)?, &part(old)?, &part(new)?, count).map(Value::from)
}

pub(crate) fn format(arguments: Arguments) -> Outcome {
    let (template, rest) = arguments.split_first()?;
    if !rest.positional.is_empty() && !rest.named.is_empty() {
        return fail("can't handle positional and keyword arguments at the same time");
    }
    let values = if rest.named.is_empty() {
        crate::text::tokenizer::jinja::values::tuple(rest.positional)
    } else {
        percent::named(&rest.named)
    };
    percent::format(&text::str(&template)?, &values).map(Value::from)
}

/// Lines behind the first (or all, `first`) pushed to the right, empty ones only with `blank`.
pub(crate) fn indent(arguments: Arguments) -> Outcome {
    let [value, width, first, blank] = arguments.bind(["s", "width", "first", "blank"], 1)?;
    let value = value.unwrap_or_default();
    let text = as_string(&value)?;
    let indention = match width.as_ref().map(|width| (width, width.as_str())) {
        Some((_, Some(text))) => text.to_owned(),
        width => {
            let width = size(width.map(|(width, _)| width), 4)?;
            budget::take(width)?;
            " ".repeat(width)
        }
    };
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let (first, blank) = (is_set(first), is_set(blank));
    let with_end = format!("{text}\n");
    let lines = string_parts::lines(&with_end, LineEnds::Drop);
    budget::take(text.len().saturating_add(lines.len().saturating_mul(indention.len())))?;
    let mut out = String::with_capacity(text.len());
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if (i == 0 && first) || (i > 0 && (blank || !line.is_empty())) {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

pub(crate) fn truncate(arguments: Arguments) -> Outcome {
    let names = ["s", "length", "killwords", "end", "leeway"];
    let [value, length, kill_words, end, leeway] = arguments.bind(names, 1)?;
    let value = value.unwrap_or_default();
    let text = as_string(&value)?;
    let length = size(length.as_ref(), 255)?;
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = as_string(&end)?;
    let leeway = size(leeway.filter(|leeway| !leeway.is_none()).as_ref(), 5)?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return fail(format!("expected length >= {}, got {length}", end.chars().count()));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let cut: String = text.chars().take(kept).collect();
    let whole_words = if kill_words.is_some_and(|kill| kill.is_true()) { None } else { cut.rsplit_once(' ') };
    Ok(Value::from(whole_words.map_or(cut.as_str(), |(words, _)| words).to_owned() + end))
}

pub(crate) fn wordcount(arguments: Arguments) -> Outcome {
    let text = only(arguments)?;
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    Ok(Value::from(words.count()))
}
