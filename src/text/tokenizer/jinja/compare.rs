//! Comparisons: `==`, `<`, `in`.

use minijinja::{Error, ErrorKind, Value};
use std::cmp::Ordering;

use super::budget;
use super::values::{Outcome, Python, elements, fail, list_place, pairs, type_name};

/// Python's `left == right`.
pub(crate) fn equal(left: &Value, right: &Value) -> Outcome<bool> {
    budget::take_work(16)?;
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return Ok(left.compare(&right) == Some(Ordering::Equal));
    }
    Ok(match (Python::from(left), Python::from(right)) {
        (Python::Undefined, Python::Undefined) | (Python::None, Python::None) => true,
        (Python::Str(left), Python::Str(right)) => {
            budget::take_work(left.len() / 64)?;
            left == right
        }
        (Python::Bytes(left), Python::Bytes(right)) => left == right,
        (Python::List, Python::List) | (Python::Tuple, Python::Tuple) => {
            equal_items(&elements(left), &elements(right))?
        }
        (Python::Dict, Python::Dict) => equal_dicts(left, right)?,
        (Python::View(left), Python::View(right)) => equal_items(&left.items, &right.items)?,
        (
            Python::Undefined
            | Python::None
            | Python::Str(_)
            | Python::Bytes(_)
            | Python::List
            | Python::Tuple
            | Python::Dict
            | Python::View(_)
            | Python::Bool(_)
            | Python::Int(_)
            | Python::Float(_),
            _,
        ) => false,
        _ => same(left, right),
    })
}

fn equal_items(left: &[Value], right: &[Value]) -> Outcome<bool> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for (left, right) in left.iter().zip(right) {
        if !equal(left, right)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_dicts(left: &Value, right: &Value) -> Outcome<bool> {
    let (left, right_pairs) = (pairs(left), pairs(right));
    if left.len() != right_pairs.len() {
        return Ok(false);
    }
    for (key, value) in left {
        match lookup(right, &key)? {
            Some(other) if equal(&value, &other)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// True if two values are the same, as `is sameas` asks: lists by identity, other values by kind and equality.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (list_place(left), list_place(right)) {
        (Some(left), Some(right)) => std::ptr::eq(left, right),
        _ => left.kind() == right.kind() && left == right,
    }
}

/// A number, booleans included.
pub(crate) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub(crate) fn float(&self) -> f64 {
        match *self {
            Self::Int(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(right)),
            (Self::Int(left), Self::Float(right)) => compare_exactly(*left, *right),
            (Self::Float(left), Self::Int(right)) => compare_exactly(*right, *left).map(Ordering::reverse),
            (Self::Float(left), Self::Float(right)) => left.partial_cmp(right),
        }
    }
}

/// The order of an integer and a float as numbers: most large integers are no float.
fn compare_exactly(integer: i128, float: f64) -> Option<Ordering> {
    /// 2^127, one above the largest integer.
    const BOUND: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    if float.is_nan() {
        return None;
    }
    if float >= BOUND {
        return Some(Ordering::Less);
    }
    if float < -BOUND {
        return Some(Ordering::Greater);
    }
    let whole = integer.cmp(&(float.trunc() as i128));
    Some(whole.then(0.0f64.total_cmp(&(float.fract() + 0.0))))
}

/// The number in `value`.
pub(crate) fn number(value: &Value) -> Option<Number> {
    match Python::from(value) {
        Python::Bool(flag) => Some(Number::Int(i128::from(flag))),
        Python::Int(number) => Some(Number::Int(number)),
        Python::Float(number) => Some(Number::Float(number)),
        _ => None,
    }
}

/// The order of two values, `None` where one of them is not a number; an error for types that have no order.
pub(crate) fn order(left: &Value, right: &Value) -> Outcome<Option<Ordering>> {
    budget::take_work(16)?;
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return Ok(left.compare(&right));
    }
    match (Python::from(left), Python::from(right)) {
        (Python::Undefined, _) | (_, Python::Undefined) => {
            Err(Error::new(ErrorKind::UndefinedError, "an undefined value cannot be compared"))
        }
        (Python::Str(left), Python::Str(right)) => Ok(Some(left.cmp(right))),
        (Python::List, Python::List) | (Python::Tuple, Python::Tuple) => {
            let (left, right) = (elements(left), elements(right));
            for (left, right) in left.iter().zip(&right) {
                if !equal(left, right)? {
                    return order(left, right);
                }
            }
            Ok(Some(left.len().cmp(&right.len())))
        }
        _ => fail(format!(
            "'<' not supported between instances of '{}' and '{}'",
            type_name(left),
            type_name(right)
        )),
    }
}

/// `left OPERATOR right`.
pub(crate) fn compare(operator: &str, left: &Value, right: &Value) -> Outcome<bool> {
    Ok(match operator {
        "==" => equal(left, right)?,
        "!=" => !equal(left, right)?,
        "<" => order(left, right)? == Some(Ordering::Less),
        "<=" => matches!(order(left, right)?, Some(Ordering::Less | Ordering::Equal)),
        ">" => order(left, right)? == Some(Ordering::Greater),
        ">=" => matches!(order(left, right)?, Some(Ordering::Greater | Ordering::Equal)),
        "in" => contains(right, left)?,
        _ => !contains(right, left)?,
    })
}

/// Python's `item in container`.
pub(crate) fn contains(container: &Value, item: &Value) -> Outcome<bool> {
    budget::take_look(container)?;
    match Python::from(container) {
        Python::Str(text) => match item.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => fail(format!("'in <string>' requires string as left operand, not {}", type_name(item))),
        },
        Python::Dict => Ok(lookup(container, item)?.is_some()),
        Python::Undefined | Python::List | Python::Tuple | Python::View(_) | Python::Generator(_) => {
            for other in super::values::iterate(container)? {
                if equal(&other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => fail(format!("argument of type '{}' is not iterable", type_name(container))),
    }
}

/// The value under `key`; an error for keys that Python cannot hash.
pub(crate) fn lookup(dict: &Value, key: &Value) -> Outcome<Option<Value>> {
    check_hashable(key)?;
    let Some(object) = dict.as_object() else { return Ok(None) };
    Ok(match Python::from(key) {
        // Undefined is equal to nothing but itself, and None is a key like others.
        Python::Undefined => None,
        Python::Bool(flag) => {
            object.get_value(key).or_else(|| object.get_value(&Value::from(i64::from(flag))))
        }
        Python::Int(0) | Python::Float(0.0) => {
            object.get_value(key).or_else(|| object.get_value(&Value::from(false)))
        }
        Python::Int(1) | Python::Float(1.0) => {
            object.get_value(key).or_else(|| object.get_value(&Value::from(true)))
        }
        _ => object.get_value(key),
    })
}

/// An error for what Python cannot hash.
pub(crate) fn check_hashable(key: &Value) -> Outcome<()> {
    match Python::from(key) {
        Python::List | Python::Dict => fail(format!("unhashable type: '{}'", type_name(key))),
        Python::Tuple => {
            budget::walk(key)?;
            elements(key).iter().try_for_each(check_hashable)
        }
        _ => Ok(()),
    }
}
