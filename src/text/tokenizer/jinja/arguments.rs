//! Arguments of a call, bound to parameters as Python binds them.

use minijinja::Value;

use super::values::{Outcome, as_received, fail, pairs};

/// Arguments that a call was given, by position and by name.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(String, Value)>,
}

impl From<&[Value]> for Arguments {
    fn from(values: &[Value]) -> Self {
        match values.split_last() {
            Some((last, rest)) if last.is_kwargs() => {
                let name = |(key, value): (Value, Value)| {
                    (key.as_str().unwrap_or_default().to_owned(), as_received(value))
                };
                Self { positional: received(rest), named: pairs(last).into_iter().map(name).collect() }
            }
            _ => Self { positional: received(values), named: Vec::new() },
        }
    }
}

fn received(values: &[Value]) -> Vec<Value> {
    values.iter().cloned().map(as_received).collect()
}

impl Arguments {
    /// One value per name; the first `required` must be there. A name that begins with `/` cannot be given by name.
    pub(crate) fn bind<const N: usize>(
        self,
        names: [&str; N],
        required: usize,
    ) -> Outcome<[Option<Value>; N]> {
        if self.positional.len() > N {
            return fail(format!("takes at most {N} arguments, got {}", self.positional.len()));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let place = names.iter().position(|&n| n == name).and_then(|at| bound.get_mut(at));
            match place {
                Some(place @ None) => *place = Some(value),
                Some(Some(_)) => return fail(format!("got multiple values for argument '{name}'")),
                None => return fail(format!("got an unexpected keyword argument '{name}'")),
            }
        }
        match bound.iter().zip(names).take(required).find(|(value, _)| value.is_none()) {
            Some((_, name)) => fail(format!("missing argument '{}'", name.trim_start_matches('/'))),
            None => Ok(bound),
        }
    }

    /// The first argument, without it the rest.
    pub(crate) fn split_first(mut self) -> Outcome<(Value, Self)> {
        if self.positional.is_empty() {
            return fail("takes at least one argument");
        }
        let first = self.positional.remove(0);
        Ok((first, self))
    }
}
