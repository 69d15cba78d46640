//! Filters over lists and what is like them.

use minijinja::{Error, ErrorKind, State, Value};

use super::table;
use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::format::size;
use crate::text::tokenizer::jinja::values::{
    Generator, Outcome, Python, fail, integer, iterate, length as length_of, list as list_of, pairs, string,
    tuple,
};
use crate::text::tokenizer::jinja::{budget, operators, subscripts, tests, text};

pub(crate) fn length(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["obj"], 1)?;
    length_of(&value.unwrap_or_default()).map(Value::from)
}

pub(crate) fn list(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    iterate(&value.unwrap_or_default()).map(list_of)
}

pub(crate) fn attr(arguments: Arguments) -> Outcome {
    let [value, name] = arguments.bind(["obj", "name"], 2)?;
    subscripts::attribute_only(&value.unwrap_or_default(), &text::str(&name.unwrap_or_default())?)
}

/// `value|default(default_value="", boolean=False)`.
pub(crate) fn default(arguments: Arguments) -> Outcome {
    let [value, default, boolean] = arguments.bind(["value", "default_value", "boolean"], 1)?;
    let value = value.unwrap_or_default();
    let is_missing = value.is_undefined() || (boolean.is_some_and(|b| b.is_true()) && !value.is_true());
    Ok(if is_missing { default.unwrap_or_else(|| Value::from("")) } else { value })
}

/// Computes `value|first`: the first item, which is taken from a generator.
pub(crate) fn first(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["seq"], 1)?;
    let value = value.unwrap_or_default();
    let first = match Python::from(&value) {
        Python::Generator(generator) => generator.rest().pop_front(),
        Python::Str(text) => text.chars().next().map(Value::from),
        _ => iterate(&value)?.into_iter().next(),
    };
    Ok(first.unwrap_or(Value::UNDEFINED))
}

pub(crate) fn last(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["seq"], 1)?;
    let value = value.unwrap_or_default();
    if matches!(Python::from(&value), Python::Generator(_)) {
        return fail("'generator' object is not reversible");
    }
    Ok(iterate(&value)?.pop().unwrap_or(Value::UNDEFINED))
}

pub(crate) fn reverse(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    let value = value.unwrap_or_default();
    if let Some(text) = value.as_str() {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    let mut items = match Python::from(&value) {
        Python::List | Python::Tuple => super::order::backwards(&value),
        _ => {
            let mut items = iterate(&value)?;
            items.reverse();
            items
        }
    };
    items.shrink_to_fit();
    Ok(Generator::value(items))
}

/// Computes `value|items`: the pairs of a mapping, and nothing for an undefined value.
pub(crate) fn items(arguments: Arguments) -> Outcome {
    let [value] = arguments.bind(["value"], 1)?;
    let value = value.unwrap_or_default();
    match Python::from(&value) {
        Python::Undefined => Ok(Generator::value(Vec::new())),
        Python::Dict => Ok(Generator::value(
            pairs(&value).into_iter().map(|(key, value)| tuple(vec![key, value])).collect(),
        )),
        _ => fail("can only get item pairs from a mapping"),
    }
}

/// `value|join(d="", attribute=None)`.
pub(crate) fn join(arguments: Arguments) -> Outcome {
    let [value, separator, attribute] = arguments.bind(["value", "d", "attribute"], 1)?;
    let separator = text::str(&separator.unwrap_or_else(|| Value::from("")))?;
    let mut out = String::new();
    for (i, item) in iterate(&value.unwrap_or_default())?.iter().enumerate() {
        if i > 0 {
            out.push_str(&separator);
        }
        let part = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            Some(attribute) => text::str(&subscripts::path(item, attribute)?)?,
            None => text::str(item)?,
        };
        budget::take(separator.len() + part.len())?;
        out.push_str(&part);
    }
    Ok(Value::from(out))
}

/// `iterable|sum(attribute=None, start=0)`.
pub(crate) fn sum(arguments: Arguments) -> Outcome {
    let [value, attribute, start] = arguments.bind(["iterable", "attribute", "start"], 1)?;
    let mut sum = start.unwrap_or_else(|| Value::from(0));
    for item in iterate(&value.unwrap_or_default())? {
        let item = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            Some(attribute) => subscripts::path(&item, attribute)?,
            None => item,
        };
        sum = operators::apply("+", &sum, &item)?;
    }
    Ok(sum)
}

/// `value|batch(linecount, fill_with=None)`: lists of so many items.
pub(crate) fn batch(arguments: Arguments) -> Outcome {
    let [value, count, fill] = arguments.bind(["value", "linecount", "fill_with"], 2)?;
    let count = integer(&count.unwrap_or_default())?;
    let (mut batches, mut batch) = (Vec::new(), Vec::new());
    for item in iterate(&value.unwrap_or_default())? {
        if batch.len() as i128 == count {
            batches.push(list_of(std::mem::take(&mut batch)));
        }
        batch.push(item);
    }
    if !batch.is_empty() {
        if let (Some(fill), Ok(count)) = (fill.filter(|fill| !fill.is_none()), usize::try_from(count)) {
            budget::take_items(count)?;
            batch.resize(count.max(batch.len()), fill);
        }
        batches.push(list_of(batch));
    }
    Ok(Generator::value(batches))
}

/// `value|slice(slices, fill_with=None)`: so many lists, the first ones longer by one.
pub(crate) fn slice(arguments: Arguments) -> Outcome {
    let [value, count, fill] = arguments.bind(["value", "slices", "fill_with"], 2)?;
    let count = size(count.as_ref(), 0)?;
    if count == 0 {
        return fail("integer division or modulo by zero");
    }
    budget::take_items(count)?;
    let mut items = iterate(&value.unwrap_or_default())?.into_iter();
    let (each, longer) = (items.len() / count, items.len() % count);
    let fill = fill.filter(|fill| !fill.is_none());
    let mut slices = Vec::new();
    for i in 0..count {
        let mut part: Vec<Value> = items.by_ref().take(each + usize::from(i < longer)).collect();
        if i >= longer {
            part.extend(fill.clone());
        }
        slices.push(list_of(part));
    }
    Ok(Generator::value(slices))
}

/// The value under `attribute`, with a default for what is undefined on the way.
fn attribute_of(item: &Value, attribute: &Value, default: Option<&Value>) -> Outcome {
    let Some(default) = default.filter(|default| !default.is_none()) else {
        return subscripts::path(item, attribute);
    };
    let parts: Vec<Value> = match attribute.as_str() {
        Some(text) => text.split('.').map(Value::from).collect(),
        None => vec![attribute.clone()],
    };
    let mut found = item.clone();
    for part in parts {
        found = subscripts::path(&found, &part)?;
        if found.is_undefined() {
            found = default.clone();
        }
    }
    Ok(found)
}

/// `value|map("filter", ...)` or `value|map(attribute=..., default=None)`.
pub(crate) fn map(state: &mut State, arguments: Arguments) -> Outcome {
    let (value, mut rest) = arguments.split_first()?;
    if rest.positional.is_empty() && rest.named.iter().any(|(name, _)| name == "attribute") {
        let [attribute, default] = rest.bind(["attribute", "default"], 1)?;
        let attribute = attribute.unwrap_or_default();
        let mapped = items_if_true(&value)?
            .iter()
            .map(|item| attribute_of(item, &attribute, default.as_ref()))
            .collect::<Outcome<_>>()?;
        return Ok(Generator::value(mapped));
    }
    if rest.positional.is_empty() {
        return fail("map requires a filter argument");
    }
    let name = rest.positional.remove(0);
    let name = string(&name)?;
    let Some(filter) = table::find(name) else {
        return Err(Error::new(ErrorKind::UnknownFilter, format!("filter {name} is unknown")));
    };
    let mut mapped = Vec::new();
    for item in items_if_true(&value)? {
        let mut positional = vec![item];
        positional.extend(rest.positional.iter().cloned());
        budget::take_work(16)?;
        mapped.push(filter(state, Arguments { positional, named: rest.named.clone() })?);
    }
    Ok(Generator::value(mapped))
}

/// Returns the items of a value that is true, and none for a value that is false.
fn items_if_true(value: &Value) -> Outcome<Vec<Value>> {
    if value.is_true() { iterate(value) } else { Ok(Vec::new()) }
}

/// Items that a filter with a test leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selected {
    /// Items that pass.
    Passing,
    /// Items that fail.
    Failing,
}

/// Computes `value|select("test", ...)`, or `reject` for [`Selected::Failing`].
pub(crate) fn select(state: &mut State, arguments: Arguments, which: Selected) -> Outcome {
    let (value, rest) = arguments.split_first()?;
    selected(state, &value, None, rest, which)
}

/// Computes `value|selectattr("attribute", "test", ...)`, or `rejectattr` for [`Selected::Failing`].
pub(crate) fn selectattr(state: &mut State, arguments: Arguments, which: Selected) -> Outcome {
    let (value, rest) = arguments.split_first()?;
    let (attribute, rest) = rest.split_first()?;
    selected(state, &value, Some(&attribute), rest, which)
}

fn selected(
    state: &mut State,
    value: &Value,
    attribute: Option<&Value>,
    mut test: Arguments,
    which: Selected,
) -> Outcome {
    let name = if test.positional.is_empty() { None } else { Some(test.positional.remove(0)) };
    let name = name.as_ref().map(string).transpose()?;
    let mut selected = Vec::new();
    for item in items_if_true(value)? {
        let tested = match attribute {
            Some(attribute) => subscripts::path(&item, attribute)?,
            None => item.clone(),
        };
        let passes = match name {
            None => tested.is_true(),
            Some(name) => {
                let mut positional = vec![tested];
                positional.extend(test.positional.iter().cloned());
                budget::take_work(16)?;
                tests::perform(state, name, Arguments { positional, named: test.named.clone() })?
            }
        };
        if passes == (which == Selected::Passing) {
            selected.push(item);
        }
    }
    Ok(Generator::value(selected))
}
