//! Errors and warnings about values that are NaN, infinite or out of range, under their names in the checkpoint.

use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::producers::CHUNK_BYTES;
use crate::error::{Error, Result};
use crate::formats::checkpoint::Tensor;
use crate::models::source::{SourceModel, SourceTensor};
use crate::numerics::dtype::{CastReport, Dtype, cast};
use crate::numerics::rounding::RoundingError;

/// Casts that met values that are not finite, by tensor.
#[derive(Debug, Default)]
pub struct Warnings {
    tensors: Mutex<BTreeMap<String, CastReport>>,
}

impl Warnings {
    pub(crate) fn add(&self, tensor: &str, report: CastReport) {
        if report.non_finite > 0 {
            let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
            tensors.entry(tensor.to_owned()).or_default().merge(report);
        }
    }

    /// Fails at the first damaged tensor of `source`: for models that are made to be run.
    pub fn refuse(&self, source: &SourceModel) -> Result<()> {
        let tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, report)) = tensors.iter().next() else { return Ok(()) };
        Err(match source.tensor(name) {
            Ok(tensor) => damaged(&SourceTensor { name, tensor }, report.non_finite),
            Err(_) => Error::tensor(source.dir(), name, not_numbers(report.non_finite)).hint(DAMAGED),
        })
    }

    /// Returns one sentence per damaged tensor, and one on what that means; none where no tensor is damaged.
    pub fn messages(&self) -> Vec<String> {
        let tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        let message = |(name, report): (&String, &CastReport)| {
            format!("tensor `{name}` {}", not_numbers(report.non_finite))
        };
        let mut messages: Vec<String> = tensors.iter().map(message).collect();
        if !messages.is_empty() {
            messages.push(CONSEQUENCE.to_owned());
        }
        messages
    }
}

/// Sentence on the use of a model that was written with values that are NaN or infinite.
const CONSEQUENCE: &str = "such values were written as they are; with them nothing can be measured or generated, and \
                       `mixbit quantize` refuses the model";

fn not_numbers(count: u64) -> String {
    if count == 1 {
        return "has a value that is NaN or infinite".to_owned();
    }
    format!("has {count} values that are NaN or infinite")
}

/// Reads all float tensors and fails at the first, by name, with values that are not finite or beyond `dtype`'s range:
/// before a measurement, rather than after it.
pub fn check_values(source: &SourceModel, dtype: Dtype) -> Result<()> {
    source.tensors().filter(|source| source.tensor.dtype.is_float()).try_for_each(|source| {
        crate::interrupt::check()?;
        let size = source.tensor.dtype.size();
        let step = CHUNK_BYTES / size * size;
        let length = source.tensor.byte_len();
        let report = (0..length.div_ceil(step))
            .into_par_iter()
            .map_init(Vec::new, |out, chunk| {
                let (start, end) = (chunk * step, (chunk * step + step).min(length));
                out.clear();
                let report = cast(source.tensor.dtype, &source.tensor.slice(start, end), dtype, out);
                source.tensor.release(start, end);
                report
            })
            .reduce(CastReport::default, |mut a, b| {
                a.merge(b);
                a
            });
        check_range(&source, dtype, report)?;
        match report.non_finite {
            0 => Ok(()),
            count => Err(damaged(&source, count)),
        }
    })
}

const DAMAGED: &str = "the model is damaged: nothing can be measured or generated with such weights";

fn damaged(source: &SourceTensor<'_>, values: u64) -> Error {
    blame(source, Dtype::F32, |report| report.non_finite > 0, not_numbers(values)).hint(DAMAGED)
}

/// Fails where a cast of `source` to `dtype` met values beyond its range.
pub(crate) fn check_range(source: &SourceTensor<'_>, dtype: Dtype, report: CastReport) -> Result<()> {
    if !report.overflow {
        return Ok(());
    }
    let message = format!("has values beyond the range of {dtype}");
    Err(blame(source, dtype, |report| report.overflow, message).hint(match dtype {
        Dtype::F16 => "they would become infinite: use setting `dtype` bfloat16 or float32",
        Dtype::BF16 => "they would become infinite: use setting `dtype` float32",
        _ => "they would become infinite, and MLX files hold nothing wider",
    }))
}

/// Returns an error about the part of `source` whose cast to `dtype` is `bad`, under its name in the checkpoint.
fn blame(
    source: &SourceTensor<'_>,
    dtype: Dtype,
    bad: impl Fn(CastReport) -> bool,
    message: String,
) -> Error {
    let (file, name) = culprit(&source.tensor, dtype, bad).unwrap_or((source.tensor.file, source.name));
    Error::tensor(file, name, message)
}

/// Returns file and stored name of the part of a stacked tensor whose cast to `dtype` is `bad`.
fn culprit<'a>(
    tensor: &Tensor<'a>,
    dtype: Dtype,
    bad: impl Fn(CastReport) -> bool,
) -> Option<(&'a Path, &'a str)> {
    tensor.stored_part(|bytes| bad(cast(tensor.dtype, bytes, dtype, &mut Vec::new())))
}

/// Returns the error of a layer that cannot be rounded, from an `error` in rows of the whole layer.
pub fn unroundable(source: &SourceTensor<'_>, error: RoundingError) -> Error {
    let tensor = &source.tensor;
    let is_damaged = cast(tensor.dtype, &tensor.bytes(), Dtype::F32, &mut Vec::new()).non_finite > 0;
    let describe = |error: RoundingError| {
        let damage = if is_damaged { "; the tensor has values that are NaN or infinite" } else { "" };
        format!("{error}{damage}")
    };
    let hint = match error {
        RoundingError::Moments { .. } => {
            "what comes into this layer overflows: weights before it are huge or damaged; `mixbit check` looks for them"
        }
        _ if is_damaged => DAMAGED,
        _ => "this layer cannot be quantized: keep it float, or mend the checkpoint",
    };
    let error = match culprit(tensor, Dtype::F32, |report| report.non_finite > 0) {
        Some((file, name)) => {
            let rows = tensor.shape.iter().rev().nth(1).copied().unwrap_or(1);
            Error::tensor(file, name, describe(error.in_part(rows)))
        }
        None => Error::tensor(tensor.file, source.name, describe(error)),
    };
    error.hint(hint)
}
