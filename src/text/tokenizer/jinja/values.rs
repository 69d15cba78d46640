//! Values as Python has them: which type a value is of, and what iterating it gives.

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::budget::Held;
use super::{budget, methods};

/// `Result` of everything that a template can call.
pub(crate) type Outcome<T = Value> = Result<T, Error>;

/// The error `message`.
pub(crate) fn fail<T>(message: impl Into<String>) -> Outcome<T> {
    Err(Error::new(ErrorKind::InvalidOperation, message.into()))
}

/// A value by its Python type.
#[derive(Debug)]
pub(crate) enum Python<'a> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    List,
    Tuple,
    Dict,
    View(&'a View),
    Generator(&'a Generator),
    Namespace,
    Macro,
    Loop,
    Other,
}

impl<'a> From<&'a Value> for Python<'a> {
    fn from(value: &'a Value) -> Self {
        match value.kind() {
            ValueKind::Undefined => Self::Undefined,
            ValueKind::None => Self::None,
            ValueKind::Bool => Self::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => {
                i128::try_from(value.clone()).map_or(Self::Float(f64::INFINITY), Self::Int)
            }
            ValueKind::Number => Self::Float(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
            ValueKind::String => Self::Str(value.as_str().unwrap_or_default()),
            ValueKind::Bytes => Self::Bytes(value.as_bytes().unwrap_or_default()),
            _ => object(value),
        }
    }
}

/// The type of a value that is no scalar.
fn object(value: &Value) -> Python<'_> {
    if value.is_tuple() || value.downcast_object_ref::<Group>().is_some() {
        return Python::Tuple;
    }
    if let Some(view) = value.downcast_object_ref::<View>() {
        return Python::View(view);
    }
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Python::Generator(generator);
    }
    match (value.kind(), value.as_object().map_or("", |object| object.type_name())) {
        // Types that the engine keeps to itself.
        (_, name) if name.ends_with("::Namespace") => Python::Namespace,
        (_, name) if name.ends_with("::Macro") => Python::Macro,
        (_, name) if name.ends_with("::Loop") => Python::Loop,
        (ValueKind::Map, _) => Python::Dict,
        (ValueKind::Seq | ValueKind::Iterable, _) => Python::List,
        _ => Python::Other,
    }
}

/// The name that Python gives a value's type.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match Python::from(value) {
        Python::Undefined => "Undefined",
        Python::None => "NoneType",
        Python::Bool(_) => "bool",
        Python::Int(_) => "int",
        Python::Float(_) => "float",
        Python::Str(_) => "str",
        Python::Bytes(_) => "bytes",
        Python::List => "list",
        Python::Tuple => "tuple",
        Python::Dict => "dict",
        Python::View(view) => view.type_name(),
        Python::Generator(_) => "generator",
        Python::Namespace => "Namespace",
        Python::Macro => "Macro",
        Python::Loop => "LoopContext",
        Python::Other => "object",
    }
}

/// A list.
pub(crate) fn list(items: Vec<Value>) -> Value {
    let held = Held::new(items.len());
    Value::from_object(List { items, _held: held })
}

/// A list that a template made. Those among the variables are the engine's own.
#[derive(Debug)]
pub(crate) struct List {
    items: Vec<Value>,
    _held: Held,
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

/// The items of a list of either kind.
pub(crate) fn list_items(value: &Value) -> Option<&[Value]> {
    match value.downcast_object_ref::<List>() {
        Some(list) => Some(&list.items),
        None => value.downcast_object_ref::<Vec<Value>>().map(Vec::as_slice),
    }
}

/// Returns the address of a list of either kind, which is its identity; `None` if `value` is no list.
pub(crate) fn list_place(value: &Value) -> Option<*const ()> {
    match value.downcast_object_ref::<List>() {
        Some(list) => Some(std::ptr::from_ref(list).cast()),
        None => value.downcast_object_ref::<Vec<Value>>().map(|items| std::ptr::from_ref(items).cast()),
    }
}

/// True if `value` is a list of either kind.
pub(crate) fn is_list(value: &Value) -> bool {
    list_items(value).is_some()
}

/// A tuple.
pub(crate) fn tuple(items: Vec<Value>) -> Value {
    Value::from(Tuple::from(items))
}

/// An integer, in the smallest form.
pub(crate) fn int(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// The items of anything but a mapping, without looking at what they are.
pub(crate) fn elements(value: &Value) -> Vec<Value> {
    match list_items(value) {
        Some(items) => items.to_vec(),
        None => value.try_iter().map(Iterator::collect).unwrap_or_default(),
    }
}

/// Keys and values of a mapping.
pub(crate) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value
        .as_object()
        .and_then(minijinja::value::DynObject::try_iter_pairs)
        .map(Iterator::collect)
        .unwrap_or_default()
}

/// Python's `iter(value)`, to its end.
pub(crate) fn iterate(value: &Value) -> Outcome<Vec<Value>> {
    let items = match Python::from(value) {
        Python::Undefined => Vec::new(),
        Python::Str(text) => {
            budget::take_items(text.len())?;
            text.chars().map(Value::from).collect()
        }
        Python::Bytes(bytes) => bytes.iter().map(|&byte| Value::from(byte)).collect(),
        Python::List | Python::Tuple | Python::Dict => elements(value),
        Python::View(view) => view.items.clone(),
        Python::Generator(generator) => generator.rest().drain(..).collect(),
        _ => return fail(format!("'{}' object is not iterable", type_name(value))),
    };
    budget::take_items(items.len())?;
    Ok(items)
}

/// Python's `len(value)`.
pub(crate) fn length(value: &Value) -> Outcome<usize> {
    Ok(match Python::from(value) {
        Python::Undefined => 0,
        Python::Str(text) => text.chars().count(),
        Python::Bytes(bytes) => bytes.len(),
        Python::View(view) => view.items.len(),
        Python::List | Python::Tuple | Python::Dict => value
            .as_object()
            .and_then(minijinja::value::DynObject::enumerator_len)
            .unwrap_or_else(|| elements(value).len()),
        _ => return fail(format!("object of type '{}' has no len()", type_name(value))),
    })
}

/// The integer in `value`, which Python would take as an index or a count.
pub(crate) fn integer(value: &Value) -> Outcome<i128> {
    match Python::from(value) {
        Python::Int(number) => Ok(number),
        Python::Bool(flag) => Ok(i128::from(flag)),
        _ => fail(format!("'{}' object cannot be interpreted as an integer", type_name(value))),
    }
}

/// The text in `value`.
pub(crate) fn string(value: &Value) -> Outcome<&str> {
    value.as_str().map_or_else(|| fail(format!("expected str, got {}", type_name(value))), Ok)
}

/// True if `value` can be called.
pub(crate) fn is_callable(value: &Value) -> bool {
    match Python::from(value) {
        Python::Macro | Python::Loop | Python::Undefined => true,
        Python::Other => value.downcast_object_ref::<super::globals::Cycler>().is_none(),
        _ => false,
    }
}

/// An iterator: it can be gone through once, is always true and has no length.
#[derive(Debug)]
pub(crate) struct Generator {
    items: Mutex<VecDeque<Value>>,
    _held: Held,
}

impl Generator {
    /// A generator of `items`.
    pub(crate) fn value(items: Vec<Value>) -> Value {
        let held = Held::new(items.len());
        Value::from_object(Self { items: Mutex::new(items.into()), _held: held })
    }

    /// The items that were not taken yet.
    pub(crate) fn rest(&self) -> std::sync::MutexGuard<'_, VecDeque<Value>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// The origin of a [`View`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewOf {
    Keys,
    Values,
    Items,
    Range(i128, i128, i128),
}

/// Something like a list that is none: a view of a dict, or a range.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) of: ViewOf,
    pub(crate) items: Vec<Value>,
}

impl View {
    fn type_name(&self) -> &'static str {
        match self.of {
            ViewOf::Keys => "dict_keys",
            ViewOf::Values => "dict_values",
            ViewOf::Items => "dict_items",
            ViewOf::Range(..) => "range",
        }
    }

    /// True if the view can be indexed, as a range can.
    pub(crate) fn is_sequence(&self) -> bool {
        matches!(self.of, ViewOf::Range(..))
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

/// A group of `groupby`: a tuple of two whose parts have names.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) grouper: Value,
    pub(crate) list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_usize() {
            Some(0) => Some(self.grouper.clone()),
            Some(1) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

/// An undefined value that was given as an argument: a parameter that was given none has its default.
#[derive(Debug)]
pub(crate) struct GivenUndefined;

impl Object for GivenUndefined {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// An argument as it is passed.
pub(crate) fn as_given(value: &Value) -> Value {
    if value.is_undefined() { Value::from_object(GivenUndefined) } else { value.clone() }
}

/// An argument as it is used.
pub(crate) fn as_received(value: Value) -> Value {
    if value.downcast_object_ref::<GivenUndefined>().is_some() { Value::UNDEFINED } else { value }
}

/// A method that was taken from its value without being called.
#[derive(Debug)]
pub(crate) struct BoundMethod {
    pub(crate) receiver: Value,
    pub(crate) name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Outcome {
        methods::call(state, &self.receiver, &self.name, args)
    }
}

/// A dict that is being made: keys keep their first place and their last value.
pub(crate) struct Dict(Vec<(Value, Value)>);

impl FromIterator<(Value, Value)> for Dict {
    fn from_iter<I: IntoIterator<Item = (Value, Value)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Dict {
    /// The dict as a value. To Python, but not to the engine, `false` is the key 0 and `true` the key 1.
    pub(crate) fn into_value(self) -> Value {
        let mut pairs: Vec<(Value, Value)> = Vec::with_capacity(self.0.len());
        let (mut zero, mut one) = (None, None);
        for (key, value) in self.0 {
            let place = match Python::from(&key) {
                Python::Bool(false) | Python::Int(0) | Python::Float(0.0) => Some(&mut zero),
                Python::Bool(true) | Python::Int(1) | Python::Float(1.0) => Some(&mut one),
                _ => None,
            };
            let first = place.and_then(|place| {
                let first = *place;
                *place = first.or(Some(pairs.len()));
                first
            });
            match first.and_then(|at| pairs.get_mut(at)) {
                Some(pair) => pair.1 = value,
                None => pairs.push((key, value)),
            }
        }
        Value::from_pairs(pairs)
    }
}
