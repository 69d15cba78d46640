//! Tests: `is defined` and its like.

use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::Arguments;
use super::compare::compare as compared;
use super::values::{Outcome, Python, is_callable};
use super::{compare, operators, string_tests, text};
use crate::text::tokenizer::jinja::filters::table;

/// A test: its name, the number of its arguments, and its function of the value and the argument.
type Test = (&'static str, usize, fn(&Value, &Value) -> Outcome<bool>);

/// All tests of Jinja2.
pub(crate) const ALL: [Test; 39] = [
    ("!=", 1, |a, b| compared("!=", a, b)),
    ("<", 1, |a, b| compared("<", a, b)),
    ("<=", 1, |a, b| compared("<=", a, b)),
    ("==", 1, |a, b| compared("==", a, b)),
    (">", 1, |a, b| compared(">", a, b)),
    (">=", 1, |a, b| compared(">=", a, b)),
    ("boolean", 0, |a, _| Ok(matches!(Python::from(a), Python::Bool(_)))),
    ("callable", 0, |a, _| Ok(is_callable(a))),
    ("defined", 0, |a, _| Ok(!a.is_undefined())),
    ("divisibleby", 1, |a, b| remainder_is(a, b, 0)),
    ("eq", 1, |a, b| compared("==", a, b)),
    ("equalto", 1, |a, b| compared("==", a, b)),
    ("escaped", 0, |a, _| Ok(a.is_safe())),
    ("even", 0, |a, _| remainder_is(a, &Value::from(2), 0)),
    ("false", 0, |a, _| Ok(matches!(Python::from(a), Python::Bool(false)))),
    ("filter", 0, |a, _| Ok(a.as_str().is_some_and(|name| table::find(name).is_some()))),
    ("float", 0, |a, _| Ok(matches!(Python::from(a), Python::Float(_)))),
    ("ge", 1, |a, b| compared(">=", a, b)),
    ("greaterthan", 1, |a, b| compared(">", a, b)),
    ("gt", 1, |a, b| compared(">", a, b)),
    ("in", 1, |a, b| compare::contains(b, a)),
    ("integer", 0, |a, _| Ok(matches!(Python::from(a), Python::Int(_)))),
    ("iterable", 0, |a, _| Ok(is_iterable(a))),
    ("le", 1, |a, b| compared("<=", a, b)),
    ("lessthan", 1, |a, b| compared("<", a, b)),
    ("lower", 0, |a, _| Ok(string_tests::test(&text::str(a)?, "islower"))),
    ("lt", 1, |a, b| compared("<", a, b)),
    ("mapping", 0, |a, _| Ok(matches!(Python::from(a), Python::Dict))),
    ("ne", 1, |a, b| compared("!=", a, b)),
    ("none", 0, |a, _| Ok(a.is_none())),
    ("number", 0, |a, _| Ok(compare::number(a).is_some())),
    ("odd", 0, |a, _| remainder_is(a, &Value::from(2), 1)),
    ("sameas", 1, |a, b| Ok(compare::same(a, b))),
    ("sequence", 0, |a, _| Ok(is_sequence(a))),
    ("string", 0, |a, _| Ok(matches!(Python::from(a), Python::Str(_)))),
    ("test", 0, |a, _| Ok(a.as_str().is_some_and(exists))),
    ("true", 0, |a, _| Ok(matches!(Python::from(a), Python::Bool(true)))),
    ("undefined", 0, |a, _| Ok(a.is_undefined())),
    ("upper", 0, |a, _| Ok(string_tests::test(&text::str(a)?, "isupper"))),
];

/// True if there is a test `name`.
pub(crate) fn exists(name: &str) -> bool {
    ALL.iter().any(|(known, ..)| *known == name)
}

/// `value is name(arguments)`.
pub(crate) fn perform(_: &mut State, name: &str, arguments: Arguments) -> Outcome<bool> {
    let Some((_, takes, test)) = ALL.iter().find(|(known, ..)| *known == name) else {
        return Err(Error::new(ErrorKind::UnknownTest, format!("test {name} is unknown")));
    };
    let (value, other) = if *takes == 0 {
        let [value] = arguments.bind(["value"], 1)?;
        (value, None)
    } else {
        let name = match name {
            "divisibleby" => "num",
            "in" => "seq",
            "sameas" => "other",
            _ => "/b",
        };
        let [value, other] = arguments.bind(["value", name], 2)?;
        (value, other)
    };
    test(&value.unwrap_or_default(), &other.unwrap_or_default())
}

fn remainder_is(value: &Value, divisor: &Value, wanted: i64) -> Outcome<bool> {
    compare::equal(&operators::apply("%", value, divisor)?, &Value::from(wanted))
}

fn is_iterable(value: &Value) -> bool {
    matches!(
        Python::from(value),
        Python::Undefined
            | Python::Str(_)
            | Python::Bytes(_)
            | Python::List
            | Python::Tuple
            | Python::Dict
            | Python::View(_)
            | Python::Generator(_)
            | Python::Loop
    )
}

/// True if `value` has a length and items; an undefined value has both.
fn is_sequence(value: &Value) -> bool {
    match Python::from(value) {
        Python::Undefined
        | Python::Str(_)
        | Python::Bytes(_)
        | Python::List
        | Python::Tuple
        | Python::Dict => true,
        Python::View(view) => view.is_sequence(),
        _ => false,
    }
}
