//! Values that a pickle of tensors consists of.

use std::rc::Rc;

use crate::numerics::dtype::Dtype;

/// Value on a pickle machine's stack. Containers are numbers of [`Containers`], as a pickle refers to them again and may nest them
/// as deeply as it likes.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(Rc<str>),
    Tuple(usize),
    List(usize),
    /// Its keys and values in turn.
    Dict(usize),
    /// A function or type that a pickle of tensors names.
    Known(Known),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorValue>),
}

/// Contents of a pickle's tuples, lists and dicts.
#[derive(Debug, Default)]
pub(crate) struct Containers(Vec<Vec<Value>>);

impl Containers {
    /// Adds a container and returns its number.
    pub(crate) fn add(&mut self, items: Vec<Value>) -> usize {
        self.0.push(items);
        self.0.len() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, number: usize) -> &[Value] {
        self.0.get(number).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn extend(&mut self, number: usize, items: Vec<Value>) {
        if let Some(container) = self.0.get_mut(number) {
            container.extend(items);
        }
    }

    fn sizes(&self, tuple: &Value) -> Option<Vec<usize>> {
        if let Value::Tuple(tuple) = tuple {
            self.get(*tuple).iter().map(Value::size).collect()
        } else {
            None
        }
    }

    /// Makes a tensor from the arguments of `_rebuild_tensor_v2`: storage, first element, sizes, strides, and what training needs.
    pub(crate) fn tensor(&self, arguments: usize) -> Option<Value> {
        let [Value::Storage(storage), first, shape, strides, ..] = self.get(arguments) else { return None };
        let (first, shape, strides) = (first.size()?, self.sizes(shape)?, self.sizes(strides)?);
        let tensor = TensorValue { storage: Rc::clone(storage), first, shape, strides };
        (tensor.shape.len() == tensor.strides.len()).then(|| Value::Tensor(Rc::new(tensor)))
    }

    /// Makes a storage from a pickle's persistent id: `("storage", type, key, device, count)`.
    pub(crate) fn storage(&self, id: &Value) -> Option<Value> {
        let Value::Tuple(items) = id else { return None };
        let [kind, Value::Known(Known::Storage(dtype)), key, _, count] = self.get(*items) else {
            return None;
        };
        let storage = Storage { dtype: *dtype, key: key.text()?.to_owned(), count: count.size()? };
        (kind.text()? == "storage").then(|| Value::Storage(Rc::new(storage)))
    }
}

/// Functions and types that pickles of tensors name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Known {
    /// Returns what `name` of `module` is.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", storage) => Some(Self::Storage(match storage.strip_suffix("Storage")? {
                "Double" => Dtype::F64,
                "Float" => Dtype::F32,
                "Half" => Dtype::F16,
                "BFloat16" => Dtype::BF16,
                "Long" => Dtype::I64,
                "Int" => Dtype::I32,
                "Short" => Dtype::I16,
                "Char" => Dtype::I8,
                "Byte" => Dtype::U8,
                "Bool" => Dtype::Bool,
                _ => return None,
            })),
            _ => None,
        }
    }
}

/// Numbers that one or more tensors lie in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) dtype: Dtype,
    /// Name of its bytes in the archive.
    pub(crate) key: String,
    pub(crate) count: usize,
}

/// Tensor in a storage; first element, sizes and strides in elements.
#[derive(Debug)]
pub(crate) struct TensorValue {
    pub(crate) storage: Rc<Storage>,
    pub(crate) first: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl Value {
    pub(crate) fn size(&self) -> Option<usize> {
        if let Self::Int(number) = self { usize::try_from(*number).ok() } else { None }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}
