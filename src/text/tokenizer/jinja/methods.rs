//! Methods of values: which there are, and calling them.
//!
//! The sandbox that transformers renders in has no methods that change a list or dict, and neither has this one.

use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::Arguments;
use super::compare::lookup;
use super::values::{
    Outcome, Python, View, ViewOf, elements, fail, int, integer, list, pairs, tuple, type_name,
};
use super::{budget, compare, strings, subscripts};

const OF_LISTS: [&str; 3] = ["copy", "count", "index"];
const OF_TUPLES: [&str; 2] = ["count", "index"];
const OF_DICTS: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];

/// True if values of the type of `value` have a method `name`.
pub(crate) fn exists(value: &Value, name: &str) -> bool {
    match Python::from(value) {
        Python::Str(_) => strings::METHODS.contains(&name),
        Python::List => OF_LISTS.contains(&name),
        Python::Tuple => OF_TUPLES.contains(&name),
        Python::Dict => OF_DICTS.contains(&name),
        Python::View(view) if view.is_sequence() => OF_TUPLES.contains(&name),
        Python::Bytes(_) => name == "decode",
        _ => false,
    }
}

/// `receiver.name(args)`.
pub(crate) fn call(state: &mut State, receiver: &Value, name: &str, args: &[Value]) -> Outcome {
    budget::take_look(receiver)?;
    let unknown = || {
        let message = format!("'{}' object has no method '{name}'", type_name(receiver));
        Err(Error::new(ErrorKind::UnknownMethod, message))
    };
    if exists(receiver, name) {
        let arguments = Arguments::from(args);
        return match Python::from(receiver) {
            Python::Str(text) => strings::call(text, name, arguments),
            Python::Dict => dict_method(receiver, name, arguments),
            Python::Bytes(bytes) => Ok(Value::from(String::from_utf8_lossy(bytes).into_owned())),
            _ => sequence_method(receiver, name, arguments),
        };
    }
    match Python::from(receiver) {
        Python::Loop => loop_method(state, receiver, name, args),
        Python::Other => match receiver.call_method(state, name, args) {
            Err(error) if error.kind() == ErrorKind::UnknownMethod => unknown(),
            result => result,
        },
        Python::Undefined | Python::Namespace | Python::Macro | Python::Dict => {
            let attribute = subscripts::attribute(receiver, name)?;
            if attribute.is_undefined() { unknown() } else { attribute.call(state, args) }
        }
        _ => unknown(),
    }
}

fn loop_method(state: &mut State, receiver: &Value, name: &str, args: &[Value]) -> Outcome {
    args.iter().try_for_each(budget::walk)?;
    if name == "cycle" && args.is_empty() {
        return fail("no items for cycling given");
    }
    receiver.call_method(state, name, args)
}

fn dict_method(receiver: &Value, name: &str, arguments: Arguments) -> Outcome {
    if name == "get" {
        let [key, default] = arguments.bind(["/key", "/default"], 1)?;
        let found = lookup(receiver, &key.unwrap_or_default())?;
        return Ok(found.or(default).unwrap_or(Value::from(())));
    }
    if name == "fromkeys" {
        return super::globals::from_keys(arguments);
    }
    arguments.bind([], 0)?;
    budget::take_made(receiver)?;
    let pairs = pairs(receiver);
    let (of, items) = match name {
        "keys" => (ViewOf::Keys, pairs.into_iter().map(|(key, _)| key).collect()),
        "values" => (ViewOf::Values, pairs.into_iter().map(|(_, value)| value).collect()),
        "items" => (ViewOf::Items, pairs.into_iter().map(|(key, value)| tuple(vec![key, value])).collect()),
        _ => return Ok(pairs.into_iter().collect::<super::values::Dict>().into_value()),
    };
    Ok(Value::from_object(View { of, items }))
}

fn sequence_method(receiver: &Value, name: &str, arguments: Arguments) -> Outcome {
    let items = elements(receiver);
    match name {
        "copy" => {
            arguments.bind([], 0)?;
            budget::take_items(items.len())?;
            Ok(list(items))
        }
        "count" => {
            let [wanted] = arguments.bind(["/value"], 1)?;
            let wanted = wanted.unwrap_or_default();
            let mut count = 0;
            for item in &items {
                count += i128::from(compare::equal(item, &wanted)?);
            }
            Ok(int(count))
        }
        _ => {
            let [wanted, start, stop] = arguments.bind(["/value", "/start", "/stop"], 1)?;
            let wanted = wanted.unwrap_or_default();
            let bound = |value: Option<Value>| value.map(|value| integer(&value)).transpose();
            for at in subscripts::places(items.len(), bound(start)?, bound(stop)?, 1) {
                if let Some(item) = items.get(at)
                    && compare::equal(item, &wanted)?
                {
                    return Ok(Value::from(at));
                }
            }
            fail("the value is not in the list")
        }
    }
}
