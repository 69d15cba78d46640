//! Macros that take more arguments than they have parameters, as `varargs` and `kwargs`.

use minijinja::value::{Enumerator, Kwargs, Object};
use minijinja::{State, Value};
use std::sync::Arc;

use super::arguments::Arguments;
use super::values::{Dict, Outcome, fail, string, tuple};

/// The name of the tuple of surplus positional arguments.
pub(crate) const VARARGS: &str = "varargs";

/// The name of the dict of surplus named arguments.
pub(crate) const KWARGS: &str = "kwargs";

/// A macro whose body names `varargs` or `kwargs`. To the engine these are its last parameters.
#[derive(Debug)]
pub(crate) struct Macro {
    inner: Value,
    parameters: Vec<String>,
    takes_varargs: bool,
    takes_kwargs: bool,
}

impl Macro {
    /// The engine's macro `inner` with its arguments collected.
    pub(crate) fn value(inner: &Value) -> Outcome {
        let mut parameters = Vec::new();
        for name in inner.get_attr("arguments")?.try_iter()? {
            parameters.push(string(&name)?.to_owned());
        }
        // The parser adds them behind all others, and no parameter of the template's is called like them then.
        let takes_kwargs = parameters.pop_if(|name| name == KWARGS).is_some();
        let takes_varargs = parameters.pop_if(|name| name == VARARGS).is_some();
        Ok(Value::from_object(Self { inner: inner.clone(), parameters, takes_varargs, takes_kwargs }))
    }
}

impl Object for Macro {
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["name", "arguments", "caller"])
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "arguments" => Some(self.parameters.iter().map(String::as_str).map(Value::from).collect()),
            name => self.inner.get_attr(name).ok().filter(|value| !value.is_undefined()),
        }
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Outcome {
        let (given, named) = match args.split_last() {
            Some((last, given)) if last.is_kwargs() => (given, super::values::pairs(last)),
            _ => (args, Vec::new()),
        };
        let (positional, surplus) = given.split_at(given.len().min(self.parameters.len()));
        if !surplus.is_empty() && !self.takes_varargs {
            return fail(format!(
                "a macro takes at most {} arguments, got {}",
                self.parameters.len(),
                given.len()
            ));
        }
        let free = self.parameters.get(positional.len()..).unwrap_or_default();
        let takes_caller = self.inner.get_attr("caller")?.is_true();
        let is_own = |name: &str| free.iter().any(|own| own == name) || (takes_caller && name == "caller");
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (name, value) in named {
            let name = string(&name)?;
            if is_own(name) {
                own.push((name.to_owned(), value));
            } else {
                others.push((name.to_owned(), value));
            }
        }
        if self.takes_varargs {
            own.push((VARARGS.to_owned(), tuple(Arguments::from(surplus).positional)));
        }
        if self.takes_kwargs {
            let others: Dict = others
                .into_iter()
                .map(|(name, value)| (Value::from(name), super::values::as_received(value)))
                .collect();
            own.push((KWARGS.to_owned(), others.into_value()));
        } else {
            own.extend(others);
        }
        let mut args = positional.to_vec();
        args.push(own.into_iter().collect::<Kwargs>().into());
        self.inner.call(state, &args)
    }
}
