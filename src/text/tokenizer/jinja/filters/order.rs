//! Filters that compare items.

use minijinja::Value;
use std::cmp::Ordering;

use crate::text::tokenizer::jinja::arguments::Arguments;
use crate::text::tokenizer::jinja::values::{
    Generator, Group, Outcome, Python, elements, fail, iterate, list, pairs, string, tuple, type_name,
};
use crate::text::tokenizer::jinja::{compare, subscripts};

/// An item and what it is compared by.
type Keyed = (Value, Value);

/// Comparison of texts as keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Capital letters are letters of their own.
    Sensitive,
    /// Capital letters count as small ones.
    Insensitive,
}

/// Direction of sorting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

impl From<Option<Value>> for Case {
    /// Reads the argument `case_sensitive`.
    fn from(flag: Option<Value>) -> Self {
        if is_set(flag) { Self::Sensitive } else { Self::Insensitive }
    }
}

impl From<Option<Value>> for Direction {
    /// Reads the argument `reverse`.
    fn from(flag: Option<Value>) -> Self {
        if is_set(flag) { Self::Descending } else { Self::Ascending }
    }
}

/// Sorts by a key and stably, whatever the comparison does: Rust's own sorting panics on orders that are none.
pub(crate) fn sort_by<T>(items: &mut Vec<T>, key: impl Fn(&T) -> &Value + Copy) -> Outcome<()> {
    if items.len() < 2 {
        return Ok(());
    }
    let mut right = items.split_off(items.len() / 2);
    sort_by(items, key)?;
    sort_by(&mut right, key)?;
    let left = std::mem::take(items);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let right_first = compare::order(key(b), key(a))? == Some(Ordering::Less);
        items.extend(if right_first { right.next() } else { left.next() });
    }
    items.extend(left);
    items.extend(right);
    Ok(())
}

/// The value under an attribute, in small letters unless case matters.
fn key_of(item: &Value, attribute: Option<&Value>, default: Option<&Value>, case: Case) -> Outcome {
    let mut key = match attribute.filter(|attribute| !attribute.is_none()) {
        Some(attribute) => subscripts::path(item, attribute)?,
        None => item.clone(),
    };
    if key.is_undefined()
        && let Some(default) = default.filter(|default| !default.is_none())
    {
        key = default.clone();
    }
    Ok(match key.as_str() {
        Some(text) if case == Case::Insensitive => Value::from(text.to_lowercase()),
        _ => key,
    })
}

fn keyed(items: Vec<Value>, key: impl Fn(&Value) -> Outcome) -> Outcome<Vec<Keyed>> {
    items.into_iter().map(|item| Ok((key(&item)?, item))).collect()
}

fn is_set(flag: Option<Value>) -> bool {
    flag.is_some_and(|flag| flag.is_true())
}

/// Items in order; equal items keep their order in either direction.
fn sorted(mut items: Vec<Keyed>, direction: Direction) -> Outcome<Vec<Value>> {
    if direction == Direction::Descending {
        items.reverse();
    }
    sort_by(&mut items, |(key, _)| key)?;
    if direction == Direction::Descending {
        items.reverse();
    }
    Ok(items.into_iter().map(|(_, item)| item).collect())
}

/// `value|sort(reverse=False, case_sensitive=False, attribute=None)`; several attributes have commas between them.
pub(crate) fn sort(arguments: Arguments) -> Outcome {
    let names = ["value", "reverse", "case_sensitive", "attribute"];
    let [value, reverse, case_sensitive, attribute] = arguments.bind(names, 1)?;
    let case = Case::from(case_sensitive);
    let several: Vec<Value> = match attribute.as_ref().and_then(Value::as_str) {
        Some(names) if names.contains(',') => names.split(',').map(Value::from).collect(),
        _ => Vec::new(),
    };
    let key = |item: &Value| {
        if several.is_empty() {
            return key_of(item, attribute.as_ref(), None, case);
        }
        Ok(list(several.iter().map(|name| key_of(item, Some(name), None, case)).collect::<Outcome<_>>()?))
    };
    let items = keyed(iterate(&value.unwrap_or_default())?, key)?;
    sorted(items, reverse.into()).map(list)
}

/// `value|dictsort(case_sensitive=False, by="key", reverse=False)`.
pub(crate) fn dictsort(arguments: Arguments) -> Outcome {
    let [value, case_sensitive, by, reverse] =
        arguments.bind(["value", "case_sensitive", "by", "reverse"], 1)?;
    let value = value.unwrap_or_default();
    if !matches!(Python::from(&value), Python::Dict) {
        return fail(format!("'{}' object has no items", type_name(&value)));
    }
    let by = by.unwrap_or_else(|| Value::from("key"));
    let at = match string(&by)? {
        "key" => 0,
        "value" => 1,
        _ => return fail("you can only sort by either \"key\" or \"value\""),
    };
    let at = Value::from(at);
    let case = Case::from(case_sensitive);
    let items = pairs(&value).into_iter().map(|(key, value)| tuple(vec![key, value])).collect();
    let items = keyed(items, |pair| key_of(pair, Some(&at), None, case))?;
    sorted(items, reverse.into()).map(list)
}

/// `value|unique(case_sensitive=False, attribute=None)`.
pub(crate) fn unique(arguments: Arguments) -> Outcome {
    let [value, case_sensitive, attribute] = arguments.bind(["value", "case_sensitive", "attribute"], 1)?;
    let case = Case::from(case_sensitive);
    let (mut seen, mut distinct): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for item in iterate(&value.unwrap_or_default())? {
        let key = key_of(&item, attribute.as_ref(), None, case)?;
        compare::check_hashable(&key)?;
        let mut is_new = true;
        for other in &seen {
            is_new &= !compare::equal(other, &key)?;
        }
        if is_new {
            seen.push(key);
            distinct.push(item);
        }
    }
    Ok(Generator::value(distinct))
}

/// `value|min(case_sensitive=False, attribute=None)`, and `max`.
pub(crate) fn extreme(arguments: Arguments, wanted: Ordering) -> Outcome {
    let [value, case_sensitive, attribute] = arguments.bind(["value", "case_sensitive", "attribute"], 1)?;
    let case = Case::from(case_sensitive);
    let key = |item: &Value| key_of(item, attribute.as_ref(), None, case);
    let mut items = keyed(iterate(&value.unwrap_or_default())?, key)?.into_iter();
    let Some(mut best) = items.next() else { return Ok(Value::UNDEFINED) };
    for item in items {
        if compare::order(&item.0, &best.0)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best.1)
}

/// `value|groupby(attribute, default=None, case_sensitive=False)`.
pub(crate) fn groupby(arguments: Arguments) -> Outcome {
    let names = ["value", "attribute", "default", "case_sensitive"];
    let [value, attribute, default, case_sensitive] = arguments.bind(names, 2)?;
    let case = Case::from(case_sensitive);
    let key = |item: &Value, case: Case| key_of(item, attribute.as_ref(), default.as_ref(), case);
    let mut items = keyed(iterate(&value.unwrap_or_default())?, |item| key(item, case))?;
    sort_by(&mut items, |(key, _)| key)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in items {
        match groups.last_mut() {
            Some((last, group)) if compare::equal(last, &key)? => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut named = Vec::new();
    for (_, group) in groups {
        // The key as the first item has it, not in small letters.
        let grouper = key(group.first().unwrap_or(&Value::UNDEFINED), Case::Sensitive)?;
        named.push(Value::from_object(Group { grouper, list: list(group) }));
    }
    Ok(list(named))
}

/// The items of a list or tuple backwards.
pub(crate) fn backwards(value: &Value) -> Vec<Value> {
    let mut items = elements(value);
    items.reverse();
    items
}
