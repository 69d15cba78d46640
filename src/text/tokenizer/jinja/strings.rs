//! Methods of strings.

use icu_casemap::CaseMapper;
use icu_casemap::options::TitlecaseOptions;
use icu_locale_core::LanguageIdentifier;
use minijinja::Value;

use super::arguments::Arguments;
use super::string_parts::{SplitFrom, partition, split, split_lines};
use super::values::{Outcome, Python, elements, fail, int, integer, iterate, string, type_name};
use super::{budget, string_tests};

/// The names of all methods of strings.
pub(crate) const METHODS: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// `text.name(arguments)`.
pub(crate) fn call(text: &str, name: &str, arguments: Arguments) -> Outcome {
    match name {
        "startswith" | "endswith" => affixed(text, name, arguments),
        "find" | "rfind" | "index" | "rindex" | "count" => searched(text, name, arguments),
        "split" => split(text, SplitFrom::Left, arguments),
        "rsplit" => split(text, SplitFrom::Right, arguments),
        "splitlines" => split_lines(text, arguments),
        "partition" => partition(text, SplitFrom::Left, arguments),
        "rpartition" => partition(text, SplitFrom::Right, arguments),
        "strip" | "lstrip" | "rstrip" => stripped(text, name, arguments),
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments.bind(["/affix"], 1)?;
            let affix = affix.unwrap_or_default();
            let affix = string(&affix)?;
            let rest =
                if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(["/old", "/new", "count"], 2)?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let count = count.map_or(Ok(-1), |count| integer(&count))?;
            replace(text, string(&old)?, string(&new)?, count).map(Value::from)
        }
        "center" | "ljust" | "rjust" | "zfill" => padded(text, name, arguments),
        "join" => {
            let [items] = arguments.bind(["/iterable"], 1)?;
            let items = iterate(&items.unwrap_or_default())?;
            let parts = items.iter().map(string).collect::<Outcome<Vec<&str>>>()?;
            budget::take(parts.iter().map(|part| part.len() + text.len()).sum())?;
            Ok(Value::from(parts.join(text)))
        }
        "expandtabs" => {
            let [size] = arguments.bind(["tabsize"], 0)?;
            expand_tabs(text, size.map_or(Ok(8), |size| integer(&size))?).map(Value::from)
        }
        "encode" => {
            let [encoding, _] = arguments.bind(["encoding", "errors"], 0)?;
            match encoding.as_ref().and_then(Value::as_str).map(str::to_ascii_lowercase).as_deref() {
                None | Some("utf-8" | "utf8") => Ok(Value::from_bytes(text.as_bytes().to_vec())),
                Some("ascii") if text.is_ascii() => Ok(Value::from_bytes(text.as_bytes().to_vec())),
                Some(other) => fail(format!("cannot encode as {other}")),
            }
        }
        "format" => super::format::format(text, arguments).map(Value::from),
        "format_map" => {
            let [values] = arguments.bind(["/mapping"], 1)?;
            let named = super::values::pairs(&values.unwrap_or_default());
            let named = named.into_iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value)));
            super::format::format(text, Arguments { positional: Vec::new(), named: named.collect() })
                .map(Value::from)
        }
        "translate" => translate(text, arguments),
        "maketrans" => make_table(arguments),
        _ => {
            arguments.bind([], 0)?;
            Ok(match name {
                "upper" => Value::from(text.to_uppercase()),
                "lower" => Value::from(text.to_lowercase()),
                "casefold" => Value::from(CaseMapper::new().fold_string(text).into_owned()),
                "capitalize" => Value::from(capitalize(text)),
                "swapcase" => Value::from(swap_case(text)),
                "title" => Value::from(title(text)),
                name => Value::from(string_tests::test(text, name)),
            })
        }
    }
}

/// Python's `c.isspace()`.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// Returns `text` without the characters of `chars` at both ends; without white space if `chars` is `None`.
pub(crate) fn strip<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    text.trim_matches(|c| chars.map_or_else(|| is_space(c), |chars| chars.contains(c)))
}

fn stripped(text: &str, name: &str, arguments: Arguments) -> Outcome {
    let [chars] = arguments.bind(["/chars"], 0)?;
    let chars = chars.filter(|chars| !chars.is_none());
    let chars = chars.as_ref().map(string).transpose()?;
    let is_stripped = |c| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match name {
        "strip" => text.trim_matches(is_stripped),
        "lstrip" => text.trim_start_matches(is_stripped),
        _ => text.trim_end_matches(is_stripped),
    }))
}

/// Replaces the first `count` occurrences of `old` by `new`, or all if `count` is negative.
pub(crate) fn replace(text: &str, old: &str, new: &str, count: i128) -> Outcome<String> {
    let times = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = usize::try_from(count).map_or(times, |count| count.min(times));
    budget::take(text.len() + times.saturating_mul(new.len()))?;
    Ok(text.replacen(old, new, times))
}

/// The part of `text` between two character positions, and where it begins; `None` if the begin is behind the end.
fn part<'a>(text: &'a str, start: Option<&Value>, stop: Option<&Value>) -> Outcome<Option<(&'a str, usize)>> {
    let bound = |value: Option<&Value>| value.filter(|value| !value.is_none()).map(integer).transpose();
    let (start, stop) = (bound(start)?, bound(stop)?);
    if start.is_none() && stop.is_none() {
        return Ok(Some((text, 0)));
    }
    let length = text.chars().count() as i128;
    let place = |bound: i128| if bound < 0 { (bound + length).max(0) } else { bound };
    let (start, stop) = (place(start.unwrap_or(0)), place(stop.unwrap_or(length)).min(length));
    let byte = |at: i128| {
        let at = usize::try_from(at).unwrap_or(0);
        text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte)
    };
    let inside = (start <= stop).then(|| text.get(byte(start)..byte(stop))).flatten();
    Ok(inside.map(|inside| (inside, usize::try_from(start).unwrap_or(0))))
}

fn affixed(text: &str, name: &str, arguments: Arguments) -> Outcome {
    let [affix, start, stop] = arguments.bind(["/affix", "/start", "/end"], 1)?;
    let affix = affix.unwrap_or_default();
    let affixes = match Python::from(&affix) {
        Python::Tuple => elements(&affix),
        Python::Str(_) => vec![affix],
        _ => return fail(format!("{name} takes a string or a tuple of strings, not {}", type_name(&affix))),
    };
    let affixes = affixes.iter().map(string).collect::<Outcome<Vec<&str>>>()?;
    let Some((inside, _)) = part(text, start.as_ref(), stop.as_ref())? else { return Ok(Value::from(false)) };
    let is_there = |affix: &&str| {
        if name == "startswith" { inside.starts_with(*affix) } else { inside.ends_with(*affix) }
    };
    Ok(Value::from(affixes.iter().any(is_there)))
}

fn searched(text: &str, name: &str, arguments: Arguments) -> Outcome {
    let [wanted, start, stop] = arguments.bind(["/sub", "/start", "/end"], 1)?;
    let wanted = wanted.unwrap_or_default();
    let wanted = string(&wanted)?;
    let inside = part(text, start.as_ref(), stop.as_ref())?;
    if name == "count" {
        let count = |text: &str| {
            if wanted.is_empty() { text.chars().count() + 1 } else { text.matches(wanted).count() }
        };
        return Ok(Value::from(inside.map_or(0, |(inside, _)| count(inside))));
    }
    let found = inside.and_then(|(inside, begin)| {
        let byte = if name.starts_with('r') { inside.rfind(wanted) } else { inside.find(wanted) };
        byte.and_then(|byte| inside.get(..byte)).map(|before| begin + before.chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => fail("substring not found"),
    }
}

fn padded(text: &str, name: &str, arguments: Arguments) -> Outcome {
    let [width, fill] = arguments.bind(["/width", if name == "zfill" { "//" } else { "/fillchar" }], 1)?;
    let fill = fill.unwrap_or_else(|| Value::from(if name == "zfill" { "0" } else { " " }));
    let fill = string(&fill)?;
    if fill.chars().count() != 1 {
        return fail("the fill character must be exactly one character long");
    }
    pad(text, name, integer(&width.unwrap_or_default())?, fill).map(Value::from)
}

/// `text` widened to `width` characters.
pub(crate) fn pad(text: &str, name: &str, width: i128, fill: &str) -> Outcome<String> {
    let length = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    budget::take(text.len().saturating_add(missing.saturating_mul(fill.len())))?;
    let left = match name {
        "ljust" => 0,
        // As CPython has it: the odd one goes left when the width is odd too.
        "center" => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
        _ => missing,
    };
    let (left, right) = (fill.repeat(left), fill.repeat(missing - left));
    if name == "zfill"
        && let Some((sign, digits)) = text.split_at_checked(1).filter(|(sign, _)| matches!(*sign, "+" | "-"))
    {
        return Ok(format!("{sign}{left}{digits}"));
    }
    Ok(format!("{left}{text}{right}"))
}

fn expand_tabs(text: &str, size: i128) -> Outcome<String> {
    let size = usize::try_from(size).unwrap_or(0);
    budget::take(text.len().saturating_add(text.matches('\t').count().saturating_mul(size)))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let width = size - column % size;
                out.push_str(&" ".repeat(width));
                column += width;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(out)
}

/// Python's `text.capitalize()`.
pub(crate) fn capitalize(text: &str) -> String {
    let rest = text.chars().next().map_or(0, char::len_utf8);
    let (first, rest) = text.split_at(rest);
    // Where a sigma is the last letter of a word depends on what is before it.
    let lower = text.to_lowercase();
    let rest_lower =
        lower.get(first.to_lowercase().len()..).map_or_else(|| rest.to_lowercase(), str::to_owned);
    title_case(first) + &rest_lower
}

/// A character as it begins a word.
fn title_case(c: &str) -> String {
    let options = TitlecaseOptions::default();
    CaseMapper::new()
        .titlecase_segment_with_only_case_data_to_string(c, &LanguageIdentifier::UNKNOWN, options)
        .into_owned()
}

fn swap_case(text: &str) -> String {
    let swapped = |c: char| -> String {
        match (c.is_uppercase(), c.is_lowercase()) {
            (true, _) => c.to_lowercase().collect(),
            (_, true) => c.to_uppercase().collect(),
            _ => c.to_string(),
        }
    };
    text.chars().map(swapped).collect()
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut in_word = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let ends_word = !chars.peek().is_some_and(|next| next.is_uppercase() || next.is_lowercase());
        if in_word && c == 'Σ' && ends_word {
            out.push('ς');
        } else if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&title_case(c.encode_utf8(&mut [0; 4])));
        }
        in_word = c.is_uppercase() || c.is_lowercase() || string_tests::is_title_case(c);
    }
    out
}

fn translate(text: &str, arguments: Arguments) -> Outcome {
    let [table] = arguments.bind(["/table"], 1)?;
    let table = table.unwrap_or_default();
    let mut out = String::new();
    for c in text.chars() {
        let found = super::subscripts::item(&table, &Value::from(u32::from(c)))?;
        match Python::from(&found) {
            Python::Undefined => out.push(c),
            Python::None => {}
            Python::Str(text) => {
                budget::take(text.len())?;
                out.push_str(text);
            }
            Python::Int(code) => {
                out.extend(u32::try_from(code).ok().and_then(char::from_u32));
            }
            _ => return fail("a translation table has integers, strings or None"),
        }
    }
    Ok(Value::from(out))
}

fn make_table(arguments: Arguments) -> Outcome {
    let [from, to, removed] = arguments.bind(["/x", "/y", "/z"], 1)?;
    let from = from.unwrap_or_default();
    let code = |c: char| int(i128::from(u32::from(c)));
    let Some(to) = to else {
        let key = |key: Value| match key.as_str().map(|text| (text.chars().next(), text.chars().count())) {
            Some((Some(c), 1)) => code(c),
            _ => key,
        };
        let pairs = super::values::pairs(&from).into_iter().map(|(name, value)| (key(name), value));
        return Ok(pairs.collect::<super::values::Dict>().into_value());
    };
    let (from, to) = (string(&from)?, string(&to)?);
    if from.chars().count() != to.chars().count() {
        return fail("the first two arguments of maketrans must have equal length");
    }
    let removed = removed.as_ref().map(string).transpose()?.unwrap_or_default();
    let pairs = from.chars().zip(to.chars()).map(|(from, to)| (code(from), code(to)));
    let removed = removed.chars().map(|c| (code(c), Value::from(())));
    Ok(pairs.chain(removed).collect::<super::values::Dict>().into_value())
}
