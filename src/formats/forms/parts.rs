//! Tensors of one layer of another tool.

use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Tensors of the layer at a path, taken by the last part of their names.
pub(crate) struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    /// Path of the layer.
    pub(crate) path: &'a str,
    /// Names of the tensors that were taken.
    pub(crate) taken: Vec<String>,
    /// Bytes of these.
    pub(crate) bytes: usize,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, path: &'a str) -> Self {
        Self { checkpoint, path, taken: Vec::new(), bytes: 0 }
    }

    /// Takes the tensor `path` + `end`, if there is one.
    pub(crate) fn find(&mut self, end: &str) -> Option<Stored> {
        let stored = Stored::of(self.checkpoint, &format!("{}{end}", self.path))?;
        self.bytes += stored.byte_len();
        self.taken.push(stored.name.clone());
        Some(stored)
    }

    /// Takes the tensor `path` + `end`.
    pub(crate) fn need(&mut self, end: &str) -> Result<Stored> {
        self.find(end).ok_or_else(|| {
            Error::tensor(self.checkpoint.path(), format!("{}{end}", self.path), "missing").hint(
                "a layer in this form has it: the download is incomplete, or config.json is of another model",
            )
        })
    }

    /// Takes a tensor of one of `dtypes`.
    pub(crate) fn need_as(&mut self, end: &str, dtypes: &[Dtype]) -> Result<Stored> {
        let stored = self.need(end)?;
        of_type(stored, dtypes)
    }

    /// Leaves out tensors that only runners with quantized activations use.
    pub(crate) fn leave(&mut self, names: impl IntoIterator<Item = String>) {
        self.taken.extend(names.into_iter().filter(|name| self.checkpoint.entries.contains_key(name)));
    }

    /// Leaves out the tensors `path` + each of `ends`.
    pub(crate) fn leave_ends(&mut self, ends: &[&str]) {
        let path = self.path;
        self.leave(ends.iter().map(|end| format!("{path}{end}")));
    }
}

/// Returns `stored` if it is of one of `dtypes`.
pub(crate) fn of_type(stored: Stored, dtypes: &[Dtype]) -> Result<Stored> {
    if dtypes.contains(&stored.dtype()) {
        return Ok(stored);
    }
    let expected: Vec<String> = dtypes.iter().map(ToString::to_string).collect();
    Err(stored.error(format!("is {}, expected {}", stored.dtype(), expected.join(" or "))))
}

/// Element types that scales have.
pub(crate) const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// Fails unless `stored` has `shape`.
pub(crate) fn of_shape(stored: &Stored, shape: &[usize]) -> Result<()> {
    if stored.shape() == shape {
        return Ok(());
    }
    Err(stored
        .error(format!("shape {:?}, expected {shape:?}", stored.shape()))
        .hint("config.json and the weights do not belong together, or the file is damaged"))
}

/// Returns rows and columns of a matrix.
pub(crate) fn matrix(stored: &Stored) -> Result<[usize; 2]> {
    match *stored.shape() {
        [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
        ref shape => Err(stored.error(format!("shape {shape:?}, expected a matrix"))),
    }
}
