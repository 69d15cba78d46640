//! Bounds on what one rendering makes, writes and looks at.
//!
//! A template comes with a model from anywhere, and thirty doublings of a string are a gigabyte. The engine counts
//! instructions and not bytes, so everything that makes or walks values asks here first. Lists count while they are
//! there, because a template may take a slice of a long conversation at each of its messages. All else counts for
//! the whole rendering.

use minijinja::{Error, ErrorKind, Value};
use std::cell::Cell;

use super::globals::Cycler;
use super::values::{BoundMethod, Generator, fail, is_list, list_items};

/// Bytes that one rendering may write, what is written into variables included.
pub(crate) const MOST_BYTES: usize = 1 << 26;

/// Bytes of values that one rendering may make: strings that are made and never written count here.
pub(crate) const MOST_MEMORY: usize = 1 << 29;

/// Bytes of values that one rendering may look at.
pub(crate) const MOST_WORK: usize = 1 << 30;

/// Bytes that an item of a list counts for.
const ITEM: usize = 32;

/// Lists in lists at which values become an error: they are freed by recursion.
const MOST_NESTED: usize = 100;

#[derive(Clone, Copy)]
struct Budget {
    memory: usize,
    work: usize,
    output: usize,
    exceeded: Option<Exceeded>,
}

const WHOLE: Budget = Budget { memory: MOST_MEMORY, work: MOST_WORK, output: MOST_BYTES, exceeded: None };

thread_local! {
    static BUDGET: Cell<Budget> = const { Cell::new(WHOLE) };
}

/// The bound that a rendering ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Memory,
    Work,
    Output,
}

/// Begins a rendering.
pub(crate) fn renew() {
    BUDGET.set(WHOLE);
}

/// The bound that the rendering ran into first, if any.
pub(crate) fn exceeded() -> Option<Exceeded> {
    BUDGET.get().exceeded
}

/// Counts by `change`; an error if that, or anything before, came to a bound.
fn count(change: impl FnOnce(&mut Budget)) -> Result<(), Error> {
    let mut budget = BUDGET.get();
    change(&mut budget);
    let bound = match budget {
        Budget { output: 0, .. } => Some(Exceeded::Output),
        Budget { memory: 0, .. } => Some(Exceeded::Memory),
        Budget { work: 0, .. } => Some(Exceeded::Work),
        Budget { .. } => None,
    };
    budget.exceeded = budget.exceeded.or(bound);
    BUDGET.set(budget);
    match budget.exceeded {
        None => Ok(()),
        Some(Exceeded::Memory) => fail("makes too many values"),
        Some(Exceeded::Work) => fail("looks at too many values"),
        Some(Exceeded::Output) => fail("writes too much"),
    }
}

/// Counts `bytes` that are about to be made.
pub(crate) fn take(bytes: usize) -> Result<(), Error> {
    count(|budget| budget.memory = budget.memory.saturating_sub(bytes))
}

/// Counts `bytes` that are about to be looked at, or copied for as long as one filter needs them.
pub(crate) fn take_work(bytes: usize) -> Result<(), Error> {
    count(|budget| budget.work = budget.work.saturating_sub(bytes))
}

/// Makes sure that there is room for a list of `items`; it counts when it is made.
pub(crate) fn take_items(items: usize) -> Result<(), Error> {
    take_work(items)?;
    count(|budget| {
        if items.saturating_mul(ITEM) >= budget.memory {
            budget.memory = 0;
        }
    })
}

/// Memory of a list, given back when the list goes.
#[derive(Debug)]
pub(crate) struct Held(usize);

impl Held {
    /// Counts the memory of `items`; the next count is an error if it was too much.
    pub(crate) fn new(items: usize) -> Self {
        let bytes = items.saturating_mul(ITEM);
        _ = take(bytes);
        Self(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut budget = BUDGET.get();
        budget.memory = budget.memory.saturating_add(self.0).min(MOST_MEMORY);
        BUDGET.set(budget);
    }
}

/// Counts `bytes` that are about to be written.
pub(crate) fn take_output(bytes: usize) -> Result<(), Error> {
    count(|budget| budget.output = budget.output.saturating_sub(bytes))
}

/// Counts the work of looking through `value`.
pub(crate) fn take_look(value: &Value) -> Result<(), Error> {
    let bytes = match (value.as_str(), value.as_object()) {
        (Some(text), _) => text.len(),
        (None, Some(object)) => object.enumerator_len().unwrap_or(0).saturating_mul(ITEM),
        _ => 0,
    };
    take_work(1 + bytes / 16)
}

/// Counts a value that was made, without what is in it.
pub(crate) fn take_made(value: &Value) -> Result<(), Error> {
    match (value.as_str(), value.as_object()) {
        (Some(text), _) => take(text.len()),
        (None, Some(_)) if is_list(value) => take(0),
        (None, Some(object)) => take(object.enumerator_len().unwrap_or(0).saturating_mul(ITEM)),
        _ => Ok(()),
    }
}

/// Walks everything in `value`, which is an error if that is nested too deeply.
pub(crate) fn walk(value: &Value) -> Result<(), Error> {
    walk_at(value, 0)
}

fn walk_at(value: &Value, depth: usize) -> Result<(), Error> {
    take_work(2)?;
    let Some(object) = value.as_object() else { return Ok(()) };
    if depth > MOST_NESTED {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
    }
    if let Some(items) = list_items(value) {
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
