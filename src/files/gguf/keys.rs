//! Keys of an architecture in a model's metadata. Which were read is kept, since a key that nobody reads may be one that changes
//! the model.

use serde_json::Value as Json;
use std::cell::RefCell;
use std::collections::BTreeSet;

use super::gguf::Gguf;
use super::value::Value;
use crate::error::Result;

/// Keys that say nothing of what a model computes, or say it again.
const IDLE: [&str; 5] = [
    "vocab_size",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "attention.value_length",
    "rope.dimension_count",
];

/// Reader of an architecture's keys.
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    prefix: &'static str,
    read: RefCell<BTreeSet<String>>,
    assumptions: RefCell<Vec<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(gguf: &'a Gguf, prefix: &'static str) -> Self {
        Self { gguf, prefix, read: RefCell::default(), assumptions: RefCell::default() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.read.borrow_mut().insert(key.to_owned());
        self.gguf.read(&self.full(key), expected, read)
    }

    /// Returns the error for a value that cannot be used.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> crate::error::Error {
        self.gguf.error(&self.full(key), message)
    }

    /// Reads a positive size, if there is one. Lists that have it for each block must agree.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        let positive = |value: &Value| value.as_size().filter(|size| (1..1 << 31).contains(size));
        self.read(key, "a size, the same one for all blocks", |value| match value.as_list() {
            None => positive(value),
            Some(sizes) => {
                let first = positive(sizes.first()?)?;
                sizes.iter().all(|size| positive(size) == Some(first)).then_some(first)
            }
        })
    }

    /// Reads a positive size.
    pub(super) fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.gguf.missing(&self.full(key)))
    }

    /// Reads an integer from 0, if there is one.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "an integer from 0", Value::as_size)
    }

    /// Reads a finite number, if there is one.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", |value| value.as_number().filter(|number| number.is_finite()))
    }

    /// Reads a finite number.
    pub(super) fn required_number(&self, key: &str) -> Result<f64> {
        self.number(key)?.ok_or_else(|| self.gguf.missing(&self.full(key)))
    }

    /// Reads a text, if there is one.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", Value::as_text)
    }

    /// Keeps what was taken for something that the file does not say.
    pub(super) fn assume(&self, what: &str, taken: &str) {
        let sentence = format!("the file does not say {what}: taken as llama.cpp takes it, {taken}");
        self.assumptions.borrow_mut().push(sentence);
    }

    /// Returns a sentence about each assumption.
    pub(super) fn into_assumptions(self) -> Vec<String> {
        self.assumptions.into_inner()
    }

    /// Returns the blocks that a list of truths, or the distance of those for which they are false, says have windows.
    pub(super) fn windows(&self, layers: usize, usual: usize) -> Result<Vec<bool>> {
        let key = "attention.sliding_window_pattern";
        let regular = |distance: usize| (1..=layers).map(|layer| !layer.is_multiple_of(distance)).collect();
        let read =
            self.read(key, "a number of blocks, or a truth for each block", |value| match value.as_list() {
                None => value.as_size().filter(|size| *size > 0).map(regular),
                Some(list) => list
                    .iter()
                    .map(Value::as_bool)
                    .collect::<Option<Vec<bool>>>()
                    .filter(|l| l.len() == layers),
            })?;
        if read.is_none() && self.count("attention.sliding_window")?.is_some_and(|window| window > 0) {
            self.assume("which blocks have windows", &format!("all but one in {usual}"));
        }
        Ok(read.unwrap_or_else(|| regular(usual)))
    }

    /// Returns the number of heads.
    pub(super) fn heads(&self) -> Result<usize> {
        self.required_size("attention.head_count")
    }

    /// Returns the number of heads of keys and values.
    pub(super) fn kv_heads(&self) -> Result<usize> {
        Ok(self.size("attention.head_count_kv")?.unwrap_or(self.heads()?))
    }

    /// Fails where a key of the architecture is there that was not read.
    pub(super) fn refuse_others(&self) -> Result<()> {
        let read = self.read.borrow();
        let is_other = |key: &&str| {
            let own = key.strip_prefix(self.prefix).and_then(|key| key.strip_prefix('.'));
            own.is_some_and(|key| !read.contains(key) && !IDLE.contains(&key))
        };
        match self.gguf.keys().find(is_other) {
            Some(key) => Err(self
                .gguf
                .error(key, "is not known to this architecture, and may change what the model computes")
                .hint("mixbit refuses what it cannot reproduce rather than guess")),
            None => Ok(()),
        }
    }
}

/// Makes a number of JSON; whole ones are integers.
pub(super) fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 9e15 { Json::from(value as i64) } else { Json::from(value) }
}
