//! Filters over numbers.

use minijinja::Value;

use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::compare::{Number, number};
use crate::text::tokenizer::jinja::numbers::{parse_float, parse_int, round as round_float, round_int};
use crate::text::tokenizer::jinja::values::{
    Outcome, Python, fail, int as integer_value, integer, type_name,
};

pub(crate) fn abs(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["x"], 1)?;
    let value = value.unwrap_or_default();
    match number(&value) {
        Some(Number::Int(number)) => Ok(integer_value(number.saturating_abs())),
        Some(Number::Float(number)) => Ok(Value::from(number.abs())),
        None => fail(format!("bad operand type for abs(): '{}'", type_name(&value))),
    }
}

/// A float as an integer, towards zero; none where it is not finite.
fn truncated(number: f64) -> Outcome<Option<Value>> {
    match number.abs() {
        size if !size.is_finite() => Ok(None),
        size if size < 1e38 => Ok(Some(integer_value(number.trunc() as i128))),
        _ => fail("an integer is too large"),
    }
}

/// `value|int(default=0, base=10)`.
pub(crate) fn int(arguments: Arguments) -> Outcome {
    let [value, default, base] = arguments.bind(["value", "default", "base"], 1)?;
    let value = value.unwrap_or_default();
    let base = base.map_or(Ok(10), |base| integer(&base))?;
    let found = match Python::from(&value) {
        Python::Undefined => return fail("an undefined value is no number"),
        Python::Str(text) => match u32::try_from(base).ok().and_then(|base| parse_int(text, base)) {
            Some(number) => Some(integer_value(number)),
            None => parse_float(text).map_or(Ok(None), truncated)?,
        },
        Python::Float(number) if number.is_infinite() => {
            return fail("cannot convert float infinity to integer");
        }
        _ => match number(&value) {
            Some(Number::Int(number)) => Some(integer_value(number)),
            Some(Number::Float(number)) => truncated(number)?,
            None => None,
        },
    };
    Ok(found.or(default).unwrap_or_else(|| Value::from(0)))
}

/// `value|float(default=0.0)`.
pub(crate) fn float(arguments: Arguments) -> Outcome {
    let [value, default] = arguments.bind(["value", "default"], 1)?;
    let value = value.unwrap_or_default();
    let found = match Python::from(&value) {
        Python::Undefined => return fail("an undefined value is no number"),
        Python::Str(text) => parse_float(text),
        _ => number(&value).map(|number| number.float()),
    };
    Ok(found.map(Value::from).or(default).unwrap_or_else(|| Value::from(0.0)))
}

/// `value|round(precision=0, method="common")`.
pub(crate) fn round(arguments: Arguments) -> Outcome {
    let [value, precision, method] = arguments.bind(["value", "precision", "method"], 1)?;
    let value = value.unwrap_or_default();
    let precision = precision.map_or(Ok(0), |precision| integer(&precision))?;
    let Ok(precision) = i32::try_from(precision) else { return fail("a precision is too large") };
    let power = 10f64.powi(precision);
    let Some(number) = number(&value) else {
        return fail(format!("type {} cannot be rounded", type_name(&value)));
    };
    match (method.as_ref().and_then(Value::as_str).unwrap_or("common"), number) {
        ("common", Number::Int(number)) => Ok(integer_value(round_int(number, precision))),
        ("common", Number::Float(number)) => Ok(Value::from(round_float(number, precision))),
        ("ceil", number) => Ok(Value::from((number.float() * power).ceil() / power)),
        ("floor", number) => Ok(Value::from((number.float() * power).floor() / power)),
        _ => fail("method must be common, ceil or floor"),
    }
}

/// `value|filesizeformat(binary=False)`.
pub(crate) fn filesizeformat(arguments: Arguments) -> Outcome {
    let [value, binary] = arguments.bind(["value", "binary"], 1)?;
    let value = value.unwrap_or_default();
    let bytes = match Python::from(&value) {
        Python::Str(text) => parse_float(text),
        _ => number(&value).map(|number| number.float()),
    };
    let Some(bytes) = bytes else { return fail("filesizeformat takes a number") };
    let is_binary = binary.is_some_and(|binary| binary.is_true());
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    if bytes.total_cmp(&1.0).is_eq() {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", bytes.trunc() as i128)));
    }
    let prefixes = if is_binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    let mut unit = base;
    let mut name = "";
    for prefix in prefixes {
        unit *= base;
        name = prefix;
        if bytes < unit {
            break;
        }
    }
    Ok(Value::from(format!("{:.1} {name}", base * bytes / unit)))
}
