//! Attributes, items and slices.

use minijinja::{Error, ErrorKind, Value};
use std::sync::Arc;

use super::compare::lookup;
use super::values::{
    BoundMethod, Group, Outcome, Python, elements, fail, integer, length, list, tuple, type_name,
};
use super::{budget, compare, methods};

fn undefined_error(what: &str) -> Error {
    Error::new(ErrorKind::UndefinedError, format!("{what} of an undefined value"))
}

/// `value.name`: an attribute, which for most types is a method, or else the item of that name.
pub(crate) fn attribute(value: &Value, name: &str) -> Outcome {
    match Python::from(value) {
        Python::Undefined => Err(undefined_error(&format!("attribute '{name}'"))),
        Python::Namespace | Python::Macro | Python::Loop | Python::Other => own_attribute(value, name),
        Python::Tuple
            if value.downcast_object_ref::<Group>().is_some() && matches!(name, "grouper" | "list") =>
        {
            let group: Option<Arc<Group>> = value.downcast_object();
            Ok(group.map_or(Value::UNDEFINED, |group| {
                if name == "list" { group.list.clone() } else { group.grouper.clone() }
            }))
        }
        Python::Bool(flag) => number_attribute(value, name, Value::from(i64::from(flag))),
        Python::Int(_) => number_attribute(value, name, value.clone()),
        Python::Float(_) => float_attribute(value, name),
        _ if methods::exists(value, name) => Ok(bound(value, name)),
        Python::Dict => Ok(lookup(value, &Value::from(name))?.unwrap_or(Value::UNDEFINED)),
        _ => Ok(Value::UNDEFINED),
    }
}

/// Methods of Python's integers, and of floats, which are not there.
const OF_INTEGERS: [&str; 6] =
    ["as_integer_ratio", "bit_count", "bit_length", "conjugate", "from_bytes", "to_bytes"];
const OF_FLOATS: [&str; 5] = ["as_integer_ratio", "conjugate", "fromhex", "hex", "is_integer"];

/// The attribute `name` of `value`, an integer or what is one to Python, which is equal to `integer`.
fn number_attribute(value: &Value, name: &str, integer: Value) -> Outcome {
    match name {
        "real" | "numerator" => Ok(integer),
        "imag" => Ok(Value::from(0)),
        "denominator" => Ok(Value::from(1)),
        _ => no_method(value, name, &OF_INTEGERS),
    }
}

fn float_attribute(value: &Value, name: &str) -> Outcome {
    match name {
        "real" => Ok(value.clone()),
        "imag" => Ok(Value::from(0.0)),
        _ => no_method(value, name, &OF_FLOATS),
    }
}

/// Fails for the name of one of `methods`, which are not there; for any other the value is undefined.
fn no_method(value: &Value, name: &str, methods: &[&str]) -> Outcome {
    if !methods.contains(&name) {
        return Ok(Value::UNDEFINED);
    }
    let message = format!("'{}' object has no method '{name}'", type_name(value));
    Err(Error::new(ErrorKind::UnknownMethod, message))
}

/// The attribute `name` alone, never an item.
pub(crate) fn attribute_only(value: &Value, name: &str) -> Outcome {
    match Python::from(value) {
        Python::Dict if !methods::exists(value, name) => Ok(Value::UNDEFINED),
        _ => attribute(value, name),
    }
}

fn own_attribute(value: &Value, name: &str) -> Outcome {
    if value.kind() == minijinja::value::ValueKind::Plain
        && value.downcast_object_ref::<super::globals::Cycler>().is_none()
    {
        return Ok(Value::UNDEFINED);
    }
    let attribute = value.get_attr(name)?;
    let is_names = name == "arguments" && matches!(Python::from(value), Python::Macro);
    Ok(if is_names { tuple(elements(&attribute)) } else { attribute })
}

fn bound(value: &Value, name: &str) -> Value {
    Value::from_object(BoundMethod { receiver: value.clone(), name: name.to_owned() })
}

/// `value[key]`: an item, or else the attribute of that name.
pub(crate) fn item(value: &Value, key: &Value) -> Outcome {
    let found = match Python::from(value) {
        Python::Undefined => return Err(undefined_error("item")),
        Python::Dict => {
            // A key that cannot be hashed is in no dict.
            if compare::check_hashable(key).is_err() { None } else { lookup(value, key)? }
        }
        Python::Str(text) => {
            index(key, || text.chars().count()).and_then(|at| text.chars().nth(at)).map(Value::from)
        }
        Python::View(view) if view.is_sequence() => {
            index(key, || view.items.len()).and_then(|at| view.items.get(at).cloned())
        }
        Python::List | Python::Tuple => {
            let length = length(value)?;
            index(key, || length)
                .and_then(|at| value.get_item_by_index(at).ok())
                .filter(|v| !v.is_undefined())
        }
        Python::Bytes(bytes) => {
            index(key, || bytes.len()).and_then(|at| bytes.get(at)).map(|&b| Value::from(b))
        }
        _ => None,
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => match Python::from(value) {
            Python::Dict => attribute_only(value, name),
            _ => attribute(value, name),
        },
        (None, None) => Ok(Value::UNDEFINED),
    }
}

/// The place that `key` means, counted from the end if it is negative.
fn index(key: &Value, length: impl FnOnce() -> usize) -> Option<usize> {
    let at = integer(key).ok()?;
    let length = length();
    let at = if at < 0 { at.checked_add(i128::try_from(length).ok()?)? } else { at };
    usize::try_from(at).ok().filter(|&at| at < length)
}

/// `value[start:stop:step]`.
pub(crate) fn slice(value: &Value, bounds: [&Value; 3]) -> Outcome {
    let [start, stop, step] = bounds;
    let step = if step.is_none() { 1 } else { integer(step)? };
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    let at = |bound: &Value| if bound.is_none() { Ok(None) } else { integer(bound).map(Some) };
    let (start, stop) = (at(start)?, at(stop)?);
    let places = |length: usize| places(length, start, stop, step);
    budget::take_look(value)?;
    match Python::from(value) {
        Python::Undefined => Err(undefined_error("slice")),
        Python::Str(text) => {
            let chars: Vec<char> = text.chars().collect();
            Ok(Value::from(places(chars.len()).filter_map(|at| chars.get(at)).collect::<String>()))
        }
        Python::List | Python::Tuple => {
            let items = elements(value);
            let sliced = places(items.len()).filter_map(|at| items.get(at).cloned()).collect();
            Ok(if matches!(Python::from(value), Python::List) { list(sliced) } else { tuple(sliced) })
        }
        Python::View(view) if view.is_sequence() => {
            Ok(list(places(view.items.len()).filter_map(|at| view.items.get(at).cloned()).collect()))
        }
        Python::Bytes(bytes) => {
            Ok(Value::from_bytes(places(bytes.len()).filter_map(|at| bytes.get(at).copied()).collect()))
        }
        _ => fail(format!("'{}' object cannot be sliced", type_name(value))),
    }
}

/// The places of a slice, in order.
pub(crate) fn places(
    length: usize,
    start: Option<i128>,
    stop: Option<i128>,
    step: i128,
) -> impl Iterator<Item = usize> {
    let length = length as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: i128| {
        let bound = if bound < 0 { bound.saturating_add(length) } else { bound };
        bound.clamp(low, high)
    };
    let start = start.map_or(if step > 0 { low } else { high }, clamp);
    let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
    std::iter::successors(Some(start), move |at| at.checked_add(step))
        .take_while(move |&at| if step > 0 { at < stop } else { at > stop })
        .filter_map(|at| usize::try_from(at).ok())
}

/// A value under a dotted path, as filters take one: `a.b.0`. Names are items first.
pub(crate) fn path(value: &Value, path: &Value) -> Outcome {
    let Some(text) = path.as_str() else { return item(value, path) };
    let mut found = value.clone();
    for part in text.split('.') {
        let key = match part.parse::<i64>() {
            Ok(number) if part.bytes().all(|b| b.is_ascii_digit()) => Value::from(number),
            _ => Value::from(part),
        };
        found = item(&found, &key)?;
    }
    Ok(found)
}
