//! Operators: `+ - * / // % **`, `~` and the signs.

use minijinja::{Error, ErrorKind, Value};

use super::compare::{Number, number};
use super::numbers::{divide_float, divide_int};
use super::values::{Outcome, Python, elements, fail, int, list, tuple, type_name};
use super::{budget, percent, text};

/// `left OPERATOR right`.
pub(crate) fn apply(operator: &str, left: &Value, right: &Value) -> Outcome {
    match (operator, Python::from(left), Python::from(right)) {
        ("%", Python::Str(template), _) => return percent::format(template, right).map(Value::from),
        (_, Python::Undefined, _) | (_, _, Python::Undefined) => {
            return Err(Error::new(
                ErrorKind::UndefinedError,
                format!("{operator} needs a value, one is undefined"),
            ));
        }
        ("+", Python::Str(a), Python::Str(b)) => return concatenate(left, a, right, b),
        ("+", Python::List, Python::List) => return joined(left, right).map(list),
        ("+", Python::Tuple, Python::Tuple) => return joined(left, right).map(tuple),
        ("*", Python::Str(_) | Python::List | Python::Tuple, Python::Int(_) | Python::Bool(_)) => {
            return repeat(left, right);
        }
        ("*", Python::Int(_) | Python::Bool(_), Python::Str(_) | Python::List | Python::Tuple) => {
            return repeat(right, left);
        }
        _ => {}
    }
    match (number(left), number(right)) {
        (Some(Number::Int(a)), Some(Number::Int(b))) => integers(operator, a, b),
        (Some(a), Some(b)) => floats(operator, a.float(), b.float()).map(Value::from),
        _ => fail(format!(
            "unsupported operand type(s) for {operator}: '{}' and '{}'",
            type_name(left),
            type_name(right)
        )),
    }
}

fn concatenate(left: &Value, a: &str, right: &Value, b: &str) -> Outcome {
    budget::take(a.len() + b.len())?;
    let escaped = |value: &Value, text: &str| {
        if value.is_safe() {
            text.to_owned()
        } else {
            crate::text::tokenizer::jinja::filters::markup::escaped(text)
        }
    };
    if left.is_safe() || right.is_safe() {
        return Ok(Value::from_safe_string(escaped(left, a) + &escaped(right, b)));
    }
    Ok(Value::from([a, b].concat()))
}

fn joined(left: &Value, right: &Value) -> Outcome<Vec<Value>> {
    let mut items = elements(left);
    items.extend(elements(right));
    budget::take_items(items.len())?;
    Ok(items)
}

fn repeat(value: &Value, times: &Value) -> Outcome {
    let times = usize::try_from(super::values::integer(times)?.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = value.as_str() {
        budget::take(text.len().saturating_mul(times))?;
        return Ok(Value::from(if text.is_empty() { String::new() } else { text.repeat(times) }));
    }
    let items = elements(value);
    budget::take_items(items.len().saturating_mul(times))?;
    let length = items.len().saturating_mul(times);
    let repeated: Vec<Value> = items.iter().cycle().take(length).cloned().collect();
    Ok(if value.is_tuple() { tuple(repeated) } else { list(repeated) })
}

fn integers(operator: &str, a: i128, b: i128) -> Outcome {
    let number = match operator {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" | "//" | "%" if b == 0 => return fail("division by zero"),
        "/" => return Ok(Value::from(a as f64 / b as f64)),
        "//" => divide_int(a, b).map(|(quotient, _)| quotient),
        "%" => divide_int(a, b).map(|(_, rest)| rest),
        _ if b < 0 => return floats("**", a as f64, b as f64).map(Value::from),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)).or(match a {
            0 => Some(0),
            1 => Some(1),
            -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
            _ => None,
        }),
    };
    number.map_or_else(|| fail("an integer is too large"), |number| Ok(int(number)))
}

fn floats(operator: &str, a: f64, b: f64) -> Outcome<f64> {
    Ok(match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" | "//" | "%" if b == 0.0 => return fail("division by zero"),
        "/" => a / b,
        "//" => divide_float(a, b).0,
        "%" => divide_float(a, b).1,
        _ if a == 0.0 && b < 0.0 => return fail("0.0 cannot be raised to a negative power"),
        _ if a < 0.0 && b.fract() != 0.0 && b.is_finite() => {
            return fail("a negative number has no real power with a fraction");
        }
        _ => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return fail("a float is too large");
            }
            power
        }
    })
}

/// `-value` or `+value`.
pub(crate) fn sign(operator: &str, value: &Value) -> Outcome {
    match (operator, number(value)) {
        ("-", Some(Number::Int(number))) => {
            number.checked_neg().map_or_else(|| fail("an integer is too large"), |n| Ok(int(n)))
        }
        (_, Some(Number::Int(number))) => Ok(int(number)),
        ("-", Some(Number::Float(number))) => Ok(Value::from(-number)),
        (_, Some(Number::Float(number))) => Ok(Value::from(number)),
        (_, None) => fail(format!("bad operand type for unary {operator}: '{}'", type_name(value))),
    }
}

/// `a ~ b ~ ...`: the texts of all.
pub(crate) fn concatenation(values: &[Value]) -> Outcome {
    let mut out = String::new();
    for value in values {
        out.push_str(&text::str(value)?);
    }
    Ok(Value::from(out))
}
