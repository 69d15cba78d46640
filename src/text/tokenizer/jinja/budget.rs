//! Bounds on what one rendering makes and writes, in bytes and added up over the whole rendering.
//!
//! A template comes with a model from anywhere, and thirty doublings of a string are a gigabyte. The engine counts
//! instructions and not bytes, so everything that makes or walks values asks here first.

use minijinja::{Error, ErrorKind, Value};
use std::cell::Cell;

use super::globals::Cycler;
use super::values::{BoundMethod, Generator, fail};

/// Bytes that one rendering may write, what is written into variables included.
pub(crate) const MOST_BYTES: usize = 1 << 26;

/// Bytes that one rendering may make: strings that are made and never written count here.
pub(crate) const MOST_MEMORY: usize = 1 << 29;

/// Bytes that an item of a list counts for.
const ITEM: usize = 32;

/// Lists in lists at which values become an error: they are freed by recursion.
const MOST_NESTED: usize = 100;

#[derive(Clone, Copy)]
struct Budget {
    memory: usize,
    output: usize,
}

thread_local! {
    static BUDGET: Cell<Budget> = const { Cell::new(Budget { memory: MOST_MEMORY, output: MOST_BYTES }) };
}

/// The bound that a rendering ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Memory,
    Output,
}

/// Begins a rendering.
pub(crate) fn renew() {
    BUDGET.set(Budget { memory: MOST_MEMORY, output: MOST_BYTES });
}

/// The bound that the rendering ran into, if any.
pub(crate) fn exceeded() -> Option<Exceeded> {
    match BUDGET.get() {
        Budget { output: 0, .. } => Some(Exceeded::Output),
        Budget { memory: 0, .. } => Some(Exceeded::Memory),
        Budget { .. } => None,
    }
}

/// Counts `bytes` that are about to be made.
pub(crate) fn take(bytes: usize) -> Result<(), Error> {
    let budget = BUDGET.get();
    let memory = budget.memory.saturating_sub(bytes);
    BUDGET.set(Budget { memory, ..budget });
    if memory == 0 { fail("needs too much memory") } else { Ok(()) }
}

/// Counts `items` of a list that are about to be made.
pub(crate) fn take_items(items: usize) -> Result<(), Error> {
    take(items.saturating_mul(ITEM))
}

/// Counts `bytes` that are about to be written.
pub(crate) fn take_output(bytes: usize) -> Result<(), Error> {
    let budget = BUDGET.get();
    let output = budget.output.saturating_sub(bytes);
    BUDGET.set(Budget { output, ..budget });
    if output == 0 { fail("writes too much") } else { Ok(()) }
}

/// Counts the work of looking through `value`.
pub(crate) fn take_look(value: &Value) -> Result<(), Error> {
    let bytes = match (value.as_str(), value.as_object()) {
        (Some(text), _) => text.len(),
        (None, Some(object)) => object.enumerator_len().unwrap_or(0).saturating_mul(ITEM),
        _ => 0,
    };
    take(1 + bytes / 16)
}

/// Counts a value that was made, without what is in it.
pub(crate) fn take_made(value: &Value) -> Result<(), Error> {
    match (value.as_str(), value.as_object()) {
        (Some(text), _) => take(text.len()),
        (None, Some(object)) => take_items(object.enumerator_len().unwrap_or(0)),
        _ => Ok(()),
    }
}

/// Walks everything in `value`, which is an error if that is nested too deeply.
pub(crate) fn walk(value: &Value) -> Result<(), Error> {
    walk_at(value, 0)
}

fn walk_at(value: &Value, depth: usize) -> Result<(), Error> {
    take(2)?;
    let Some(object) = value.as_object() else { return Ok(()) };
    if depth > MOST_NESTED {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
    }
    if let Some(items) = object.downcast_ref::<Vec<Value>>() {
        return items.iter().try_for_each(|item| walk_at(item, depth + 1));
    }
    if let Some(items) = inside(value) {
        return items.iter().try_for_each(|item| walk_at(item, depth + 1));
    }
    match value.kind() {
        minijinja::value::ValueKind::Map => {
            let Some(mut pairs) = object.try_iter_pairs() else { return Ok(()) };
            pairs.try_for_each(|(key, item)| {
                walk_at(&key, depth + 1)?;
                walk_at(&item, depth + 1)
            })
        }
        minijinja::value::ValueKind::Seq | minijinja::value::ValueKind::Iterable => {
            let Some(mut items) = object.try_iter() else { return Ok(()) };
            items.try_for_each(|item| walk_at(&item, depth + 1))
        }
        _ => Ok(()),
    }
}

/// The values in an object that the engine cannot look into.
fn inside(value: &Value) -> Option<Vec<Value>> {
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Some(generator.rest().iter().cloned().collect());
    }
    if let Some(method) = value.downcast_object_ref::<BoundMethod>() {
        return Some(vec![method.receiver.clone()]);
    }
    value.downcast_object_ref::<Cycler>().map(|cycler| cycler.items.clone())
}
