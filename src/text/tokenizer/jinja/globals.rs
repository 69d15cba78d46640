//! Functions that every template has.

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::arguments::Arguments;
use super::values::{Dict, Outcome, Python, View, ViewOf, fail, int, integer, iterate, pairs};
use super::{budget, compare, date, environment, text};

/// Items that a range may have, which is the sandbox's own limit.
const MOST_IN_RANGE: i128 = 100_000;

/// Adds all global functions to `environment`.
pub(crate) fn add(environment: &mut Environment) {
    environment::add_function(environment, "range", range);
    environment.add_global("dict", Value::from_object(DictType));
    environment::add_function(environment, "namespace", namespace);
    environment::add_function(environment, "cycler", cycler);
    environment::add_function(environment, "joiner", joiner);
    environment::add_function(environment, "raise_exception", raise_exception);
    environment::add_function(environment, "strftime_now", date::strftime_now);
}

/// `raise_exception(message)`: how a template refuses a conversation.
fn raise_exception(arguments: Arguments) -> Outcome {
    let [message] = arguments.bind(["message"], 1)?;
    let message = text::str(&message.unwrap_or_default())?;
    Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

/// Mark of the errors that a template raises itself.
#[derive(Debug)]
struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

/// True if the template raised `error` itself.
pub(crate) fn is_raised(error: &Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<Raised>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// `range(stop)`, `range(start, stop, step=1)`.
fn range(arguments: Arguments) -> Outcome {
    let [first, second, step] = arguments.bind(["/start", "/stop", "/step"], 1)?;
    let first = integer(&first.unwrap_or_default())?;
    let (start, stop) = match second {
        Some(stop) => (first, integer(&stop)?),
        None => (0, first),
    };
    let step = step.map_or(Ok(1), |step| integer(&step))?;
    if step == 0 {
        return fail("range() arg 3 must not be zero");
    }
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let steps = i128::try_from(step.unsigned_abs()).unwrap_or(i128::MAX);
    let count = if span <= 0 { 0 } else { (span - 1) / steps + 1 };
    if count > MOST_IN_RANGE {
        return fail(format!("range too big: the sandbox blocks ranges larger than {MOST_IN_RANGE}"));
    }
    budget::take_items(usize::try_from(count).unwrap_or(0))?;
    let items = (0..count).map(|i| int(start.saturating_add(i.saturating_mul(step)))).collect();
    Ok(Value::from_object(View { of: ViewOf::Range(start, stop, step), items }))
}

/// The pairs of Python's `dict(...)`.
fn dict_pairs(arguments: Arguments) -> Outcome<Vec<(Value, Value)>> {
    let mut all = Vec::new();
    if arguments.positional.len() > 1 {
        return fail("dict expected at most 1 argument");
    }
    for value in arguments.positional {
        match Python::from(&value) {
            Python::Dict => all.extend(pairs(&value)),
            _ => {
                for item in iterate(&value)? {
                    match <[Value; 2]>::try_from(iterate(&item)?) {
                        Ok([key, value]) => all.push((key, value)),
                        Err(_) => return fail("dict takes pairs"),
                    }
                }
            }
        }
    }
    all.extend(arguments.named.into_iter().map(|(name, value)| (Value::from(name), value)));
    all.iter().try_for_each(|(key, _)| compare::check_hashable(key))?;
    budget::take_items(all.len())?;
    Ok(all)
}

fn dict(arguments: Arguments) -> Outcome {
    let dict = dict_pairs(arguments)?.into_iter().collect::<Dict>().into_value();
    budget::walk(&dict)?;
    Ok(dict)
}

/// `dict`: it can be called, and it has `fromkeys`.
#[derive(Debug)]
struct DictType;

impl Object for DictType {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Outcome {
        dict(Arguments::from(args))
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, args: &[Value]) -> Outcome {
        match name {
            "fromkeys" => from_keys(Arguments::from(args)),
            _ => Err(minijinja::ErrorKind::UnknownMethod.into()),
        }
    }
}

/// `{}.fromkeys(keys, value)`.
pub(crate) fn from_keys(arguments: Arguments) -> Outcome {
    let [keys, value] = arguments.bind(["/iterable", "/value"], 1)?;
    let value = value.unwrap_or(Value::from(()));
    let keys = iterate(&keys.unwrap_or_default())?;
    keys.iter().try_for_each(compare::check_hashable)?;
    let dict = keys.into_iter().map(|key| (key, value.clone())).collect::<Dict>().into_value();
    budget::walk(&dict)?;
    Ok(dict)
}

/// `namespace(...)`: the one thing whose attributes a template can set. None of them begins with an underscore.
fn namespace(arguments: Arguments) -> Outcome {
    let pairs = dict_pairs(arguments)?;
    if let Some(name) = pairs.iter().filter_map(|(name, _)| name.as_str()).find(|name| name.starts_with('_'))
    {
        return fail(format!("a namespace has no attributes that begin with an underscore, got '{name}'"));
    }
    let dict = pairs.into_iter().collect::<Dict>().into_value();
    budget::walk(&dict)?;
    minijinja::functions::namespace(Some(dict.into()))
}

/// `cycler(...)`: goes round its items, one with each `next()`.
#[derive(Debug)]
pub(crate) struct Cycler {
    pub(crate) items: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(arguments: Arguments) -> Outcome {
    if arguments.positional.is_empty() || !arguments.named.is_empty() {
        return fail("at least one item has to be provided");
    }
    Ok(Value::from_object(Cycler { items: arguments.positional, at: AtomicUsize::new(0) }))
}

impl Cycler {
    fn current(&self) -> Value {
        self.items.get(self.at.load(Ordering::Relaxed)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, _: &[Value]) -> Outcome {
        match name {
            "next" => {
                let current = self.current();
                let next = (self.at.load(Ordering::Relaxed) + 1) % self.items.len().max(1);
                self.at.store(next, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(minijinja::ErrorKind::UnknownMethod.into()),
        }
    }
}

/// `joiner(sep=", ")`: nothing when it is called first, then its separator.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    is_used: AtomicBool,
}

fn joiner(arguments: Arguments) -> Outcome {
    let [separator] = arguments.bind(["sep"], 0)?;
    let separator = separator.unwrap_or_else(|| Value::from(", "));
    Ok(Value::from_object(Joiner { separator, is_used: AtomicBool::new(false) }))
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Outcome {
        let is_used = self.is_used.swap(true, Ordering::Relaxed);
        Ok(if is_used { self.separator.clone() } else { Value::from("") })
    }
}
