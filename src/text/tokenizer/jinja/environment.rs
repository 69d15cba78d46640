//! The engine, set up so that templates compute what Python computes.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, Output, State, Value};

use super::arguments::Arguments;
use super::macros::Macro;
use super::values::{
    Dict, Outcome, Python, as_given, as_received, fail, iterate, length, list, tuple, type_name,
};
use super::{budget, compare, globals, methods, operators, subscripts, tests, text};
use crate::text::tokenizer::jinja::filters::table;
use crate::text::tokenizer::jinja::filters::table::ALL;

/// True if there is a filter `name`.
pub(crate) fn is_filter(name: &str) -> bool {
    table::find(name).is_some()
}

/// True if there is a test `name`.
pub(crate) fn is_test(name: &str) -> bool {
    tests::exists(name)
}

/// The engine. Instructions are counted up to `fuel`.
pub(crate) fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(fuel));
    environment.set_formatter(write);
    for (name, filter) in ALL {
        add_filter(&mut environment, name, move |state, args| filter(state, Arguments::from(args)));
    }
    for (name, ..) in tests::ALL {
        environment.add_test(
            name,
            move |state: &mut State, args: Rest<ValueOrKwargs>| -> Result<bool, Error> {
                let args = args.into_values();
                args.iter().try_for_each(budget::take_look)?;
                tests::perform(state, name, Arguments::from(args.as_slice()))
            },
        );
    }
    for operator in ["+", "-", "*", "/", "//", "%", "**"] {
        add_filter(&mut environment, operator, move |_, args| match args {
            [left, right] => operators::apply(operator, left, right),
            _ => fail("an operator has two operands"),
        });
    }
    add_syntax(&mut environment);
    globals::add(&mut environment);
    environment
}

/// Adds what the parser makes of syntax.
fn add_syntax(environment: &mut Environment) {
    add_filter(environment, "~", |_, args| operators::concatenation(args));
    add_filter(environment, "-value", |_, args| operators::sign("-", first(args)));
    add_filter(environment, "+value", |_, args| operators::sign("+", first(args)));
    add_filter(environment, ".compare", |_, args| compare_all(args));
    add_filter(environment, ".list", |_, args| built(list(rest(args).to_vec())));
    add_filter(environment, ".tuple", |_, args| built(tuple(rest(args).to_vec())));
    add_filter(environment, ".dict", |_, args| dict(rest(args)));
    add_filter(environment, ".attribute", |_, args| match args {
        [value, name] => subscripts::attribute(value, name.as_str().unwrap_or_default()),
        _ => fail("an attribute has a name"),
    });
    add_filter(environment, "[]", |_, args| match args {
        [value, key] => subscripts::item(value, key),
        _ => fail("an item has a key"),
    });
    add_filter(environment, "[:]", |_, args| match args {
        [value, start, stop, step] => subscripts::slice(value, [start, stop, step]),
        _ => fail("a slice has three bounds"),
    });
    add_filter(environment, ".call", |state, args| match args {
        [value, name, args @ ..] => methods::call(state, value, name.as_str().unwrap_or_default(), args),
        _ => fail("a method has a name"),
    });
    add_filter(environment, ".given", |_, args| Ok(as_given(first(args))));
    add_filter(environment, ".collecting", |_, args| Macro::value(first(args)));
    add_filter(environment, ".missing", |_, args| Ok(Value::from(first(args).is_undefined())));
    add_filter(environment, ".received", |_, args| Ok(as_received(first(args).clone())));
    add_filter(environment, ".iterate", |_, args| iterated(args));
    add_filter(environment, ".unpack", |_, args| unpacked(args));
    add_filter(environment, ".store", |_, args| built(first(args).clone()));
    add_filter(environment, ".private", |_, _| {
        fail("a namespace has no attributes that begin with an underscore")
    });
}

fn add_filter<F>(environment: &mut Environment, name: &'static str, filter: F)
where
    F: Fn(&mut State, &[Value]) -> Outcome + Send + Sync + 'static,
{
    environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| -> Outcome {
        let args = args.into_values();
        args.iter().try_for_each(budget::take_look)?;
        let made = filter(state, &args)?;
        budget::take_made(&made)?;
        Ok(made)
    });
}

/// Adds a function of no value but its arguments.
pub(crate) fn add_function(
    environment: &mut Environment,
    name: &'static str,
    function: fn(Arguments) -> Outcome,
) {
    environment.add_function(name, move |args: Rest<ValueOrKwargs>| -> Outcome {
        function(Arguments::from(args.into_values().as_slice()))
    });
}

fn first(args: &[Value]) -> &Value {
    args.first().unwrap_or(&Value::UNDEFINED)
}

fn rest(args: &[Value]) -> &[Value] {
    args.get(1..).unwrap_or_default()
}

/// Writes a value as `str` has it.
fn write(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let made;
    let text = if let Python::Str(text) = Python::from(value) {
        text
    } else {
        made = text::str(value)?;
        &made
    };
    budget::take_output(text.len())?;
    out.write_str(text)?;
    Ok(())
}

/// A container that is not nested too deeply.
fn built(value: Value) -> Outcome {
    budget::walk(&value)?;
    Ok(value)
}

fn dict(args: &[Value]) -> Outcome {
    let mut pairs = Vec::new();
    for pair in args.chunks(2) {
        let [key, value] = pair else { return fail("a key has a value") };
        compare::check_hashable(key)?;
        pairs.push((key.clone(), value.clone()));
    }
    built(pairs.into_iter().collect::<Dict>().into_value())
}

/// `a < b < c`: operands with operators between them.
fn compare_all(args: &[Value]) -> Outcome {
    let (mut left, mut rest) = (first(args), rest(args));
    while let [operator, right, after @ ..] = rest {
        if !compare::compare(operator.as_str().unwrap_or_default(), left, right)? {
            return Ok(Value::from(false));
        }
        (left, rest) = (right, after);
    }
    Ok(Value::from(true))
}

/// Returns the items that a loop iterates over, as a list. If the loop unpacks its items, each that is neither a list
/// nor a tuple is made a tuple.
fn iterated(args: &[Value]) -> Outcome {
    let items = iterate(first(args))?;
    let arity = args.get(1).and_then(Value::as_usize).unwrap_or(0);
    if arity == 0 {
        return Ok(list(items));
    }
    Ok(list(items.iter().map(|item| taken_apart(item, arity)).collect::<Outcome<_>>()?))
}

fn unpacked(args: &[Value]) -> Outcome {
    taken_apart(first(args), args.get(1).and_then(Value::as_usize).unwrap_or(0))
}

/// A tuple of `arity` values.
fn taken_apart(value: &Value, arity: usize) -> Outcome {
    if matches!(Python::from(value), Python::List | Python::Tuple) && length(value)? == arity {
        return Ok(value.clone());
    }
    let Ok(items) = iterate(value) else {
        return fail(format!("cannot unpack non-iterable {} object", type_name(value)));
    };
    if items.len() != arity {
        return fail(format!("expected {arity} values to unpack, got {}", items.len()));
    }
    Ok(tuple(items))
}
