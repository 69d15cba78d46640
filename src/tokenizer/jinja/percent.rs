//! Python's `format % values` in templates, where minijinja knows remainders only: rewritten into a filter that does what
//! the left side asks for.

use std::borrow::Cow;

use minijinja::formatting::{FormatStyle, format};
use minijinja::{Error, State, Value, context};

/// The filter's name, which no template has.
pub(super) const FILTER: &str = "__percent";

/// Operands in operands at which rewriting gives up.
const MAX_DEPTH: usize = 32;

/// `left % right`. Of a string: with its values, of which a tuple has many, all else is one. Of all else: the remainder.
#[allow(clippy::needless_pass_by_value)] // the signature minijinja asks for
pub(super) fn filter(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    let Some(template) = left.as_str() else {
        let remainder = state.env().compile_expression("left % right")?.eval(context! { left, right });
        // Without its line, which is the template's and not this expression's.
        return remainder.map_err(|e| Error::new(e.kind(), e.detail().unwrap_or_default().to_owned()));
    };
    let values: Vec<Value> = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right] };
    format(FormatStyle::Printf, template, &values).map(Value::from)
}

/// Rewrites `operand % operand` into `operand |__percent(operand)` where the left one may be a string: not where it is a
/// number, or the end of what binds as tightly (`a * b % c`, `-a % b`). Line numbers stay, and so does everything else.
pub(super) fn rewrite(source: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = source;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'#') => tag.get(2..).and_then(|inside| inside.find("#}")).map(|at| at + 2),
            Some(b'%') => end_of_tag(tag, "%}"),
            _ => end_of_tag(tag, "}}"),
        };
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        if tag.starts_with("{#") {
            out.push_str(tag);
        } else {
            expression(tag, 0, &mut out);
        }
        rest = after;
    }
    if out.len() + rest.len() == source.len() {
        return Cow::Borrowed(source);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where `close` is outside of strings.
fn end_of_tag(tag: &str, close: &str) -> Option<usize> {
    let mut at = 2;
    loop {
        let rest = tag.get(at..)?;
        if rest.starts_with(close) {
            return Some(at);
        }
        at += string(rest).or_else(|| rest.chars().next().map(char::len_utf8))?;
    }
}

/// Copies the inside of a tag, rewriting; `depth` brackets or operands around it are being rewritten.
fn expression(source: &str, depth: usize, out: &mut String) {
    let mut rest = source;
    // Whether what comes before binds as tightly as `%` or more.
    let mut bound = false;
    while let Some(c) = rest.chars().next() {
        let length = if c == '-' { 0 } else { operand(rest) };
        if c.is_whitespace() || length == 0 {
            bound = matches!(c, '*' | '/' | '%' | '-' | '|' | '.') || (c.is_whitespace() && bound);
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            continue;
        }
        let (left, after) = rest.split_at(length);
        inside(left, depth, out);
        rest = after;
        if std::mem::replace(&mut bound, false) || c.is_ascii_digit() {
            continue;
        }
        while let Some((space, values, after)) = percent(rest) {
            out.push_str(space);
            out.push('|');
            out.push_str(FILTER);
            out.push('(');
            inside(values, depth, out);
            out.push(')');
            rest = after;
        }
    }
}

/// Of `  % operand ...`: the spaces, the operand, and the rest.
fn percent(source: &str) -> Option<(&str, &str, &str)> {
    let (space, operator) = source.split_at(source.len() - source.trim_start().len());
    let right = operator.strip_prefix('%')?;
    let (values, after) = right.split_at(operand(right));
    (!values.trim().is_empty()).then_some((space, values, after))
}

/// Copies an operand, rewriting what is in its brackets.
fn inside(operand: &str, depth: usize, out: &mut String) {
    let mut rest = operand;
    while let Some(c) = rest.chars().next() {
        let (piece, after) = match (string(rest), brackets(rest)) {
            (Some(length), _) => rest.split_at(length),
            (None, Some(length)) if depth < MAX_DEPTH => {
                let (piece, after) = rest.split_at(length);
                let (open, content) = piece.split_at(c.len_utf8());
                out.push_str(open);
                let (content, close) = content.split_at(content.len().saturating_sub(1));
                expression(content, depth + 1, out);
                (close, after)
            }
            _ => rest.split_at(c.len_utf8()),
        };
        out.push_str(piece);
        rest = after;
    }
}

/// Length of the string literal that `source` begins with.
fn string(source: &str) -> Option<usize> {
    let quote = source.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    let mut inside = source.char_indices().skip(1);
    let end = inside.find(|&(_, c)| {
        let closes = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    end.map(|(at, _)| at + 1)
}

/// Length of the operand that `source` begins with, spaces before it included: a literal, a name or something in
/// brackets, and what is hung on to it (`.name`, `[...]`, `(...)`, `|filter`).
fn operand(source: &str) -> usize {
    let spaces = |at: usize| source.get(at..).map_or(0, |rest| rest.len() - rest.trim_start().len());
    let word = |at: usize| {
        let rest = source.get(at..).unwrap_or_default();
        rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
    };
    let mut end = spaces(0);
    if source.get(end..).is_some_and(|rest| rest.starts_with('-')) {
        end += 1;
    }
    let rest = source.get(end..).unwrap_or_default();
    match string(rest).or_else(|| brackets(rest)).or_else(|| Some(word(end)).filter(|&length| length > 0)) {
        Some(length) => end += length,
        None => return 0,
    }
    loop {
        let next = end + spaces(end);
        let rest = source.get(next..).unwrap_or_default();
        if let Some(length) = brackets(rest).filter(|_| !rest.starts_with('{')) {
            end = next + length;
        } else if rest.starts_with(['.', '|']) {
            let name = next + 1 + spaces(next + 1);
            end = name + word(name);
        } else {
            return end;
        }
    }
}

/// Length of the bracketed thing that `source` begins with.
fn brackets(source: &str) -> Option<usize> {
    source.chars().next().filter(|c| matches!(c, '(' | '[' | '{'))?;
    let (mut open, mut at) = (0, 0);
    loop {
        let rest = source.get(at..)?;
        let c = rest.chars().next()?;
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open -= 1,
            _ => {}
        }
        at += string(rest).unwrap_or(c.len_utf8());
        if open == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use minijinja::{Environment, context};
    use proptest::prelude::*;

    fn render(template: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter(FILTER, filter);
        let values = context! { name => "Ann", n => 7 };
        environment.render_str(&rewrite(template), values).unwrap_or_else(|e| format!("{e:#}"))
    }

    /// The expected texts are Jinja2's.
    #[test]
    fn strings_are_formatted_as_in_python() {
        for (template, expected) in [
            ("{{ '%s %s' % (name, n) }}", "Ann 7"),
            ("{{ '%s' % name }}!", "Ann!"),
            ("{{ '%03d|%.2f' % (n, 1.5) }}", "007|1.50"),
            ("{% set pair = ('x', 1) %}{{ '%s-%s' % pair }}", "x-1"),
            ("{{ '%s' % [1, 2] }}", "[1, 2]"),
            ("{{ '%s' % name | upper ~ '.' }}", "ANN."),
            ("{{ 'a' ~ '%s' % name[0:2] ~ 'b' }}", "aAnb"),
            ("{%- set x = \"<%s>\" % ('(%s)' % n) %}{{ x }}", "<(7)>"),
            ("{{ '%d%%' % 50 }}", "50%"),
            ("{{ '%s' % -n }}", "-7"),
            ("{{ '%s' % (name if n == 7 else ')') }}", "Ann"),
            ("{% if '%s' % n == '7' %}yes{% endif %}", "yes"),
            ("{% set f = '<%s|%d>' %}{{ f % (name, n) }}", "<Ann|7>"),
            ("{% set f = {'x': ['%s!']} %}{{ f.x[0] % name ~ f['x'][0] % (n,) }}", "Ann!7!"),
            ("{% set f = ' %s ' %}[{{ f | trim % name }}{{ (f ~ '%s') % ('a', 'b') }}]", "[Ann a b]"),
            ("{% set f = '%s' %}{{ [f % (n % 4), f % f % 2] | join(',') }}", "3,2"),
            ("{% set v = '%s' %}{% for i in [1, 2] %}{{ v % i if i % 2 == 0 else '-' }}{% endfor %}", "-2"),
            (
                "{% set m = 3 %}{{ n % m }} {{ n % m == 1 }} {{ 2 * n % m }} {{ -n % m }} {{ n ** 2 % m }}",
                "1 True 2 2 1",
            ),
            (
                "{{ 7.5 % 2 }} {{ n % 2.5 }} {{ n - n % 4 }} {{ (n + 1) % 3 }} {{ n % 4 % 2 }}",
                "1.5 2.0 4 2 1",
            ),
        ] {
            assert_eq!(render(template), expected, "{template}");
        }
        let wrong = render("\n{{ n % missing }}");
        assert!(
            wrong.contains("% operator on unsupported types number and undefined (in <string>:2)"),
            "{wrong}"
        );
    }

    #[test]
    fn everything_else_stays() {
        for source in [
            "",
            "'%s' % x",
            "{{ 7 % 2 }}",
            "{{ 2 * n % 3 }}",
            "{{ -n % 3 }}",
            "{{ n|length }}{% if n -%} x {%- endif %}",
            "{% set x = 'a' %}",
            "{% set x = 'a'%}{{ x }}",
            "{{ '}}' }} '%s' % x {# '%s' % x #}",
            "{{ 'it\\'s % of' }}",
            "{{ 'open",
            "{{ '%s' %",
            "{% raw",
        ] {
            assert_eq!(rewrite(source), source);
        }
    }

    proptest! {
        #[test]
        fn no_source_is_too_strange(source in "[{}%#'\"\\\\() a.|é-]{0,40}") {
            let _ = rewrite(&source);
        }
    }
}
