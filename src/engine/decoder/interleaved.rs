//! Quantized matrices of a model folder in the order that the processor multiplies fastest, read some rows at a time, so that
//! no matrix is in memory twice.

use std::ops::Range;

use super::linear::Weight;
use crate::engine::fused::{StoredForm, StoredRows, interleave};
use crate::error::Result;
use crate::formats::checkpoint::Tensor;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Quant;

/// Affine matrices of one layer, or of its experts, which lie one after the other.
pub(super) struct StoredMatrices<'a> {
    /// Codes, scales and biases.
    pub(super) parts: [Tensor<'a>; 3],
    pub(super) quant: Quant,
    /// Number of experts; 1 without.
    pub(super) count: usize,
}

impl StoredMatrices<'_> {
    /// Reads the matrices; `None` where there is no such order.
    pub(super) fn interleaved(&self) -> Result<Option<Vec<Weight>>> {
        let [codes, scales, biases] = &self.parts;
        if codes.dtype != Dtype::U32 || biases.dtype != scales.dtype {
            return Ok(None);
        }
        let form = StoredForm {
            rows: codes.len() / codes.columns() / self.count,
            columns: scales.columns() * self.quant.group_size as usize,
            scales: scales.dtype,
            quant: self.quant,
        };
        let matrix = |index: usize| {
            let first = index * form.rows;
            let placed = |rows: Range<usize>| first + rows.start..first + rows.end;
            let matrix =
                interleave(form, |rows| self.read(&placed(rows)), |rows| self.release(&placed(rows)))?;
            Ok(matrix.map(Weight::Interleaved))
        };
        (0..self.count).map(matrix).collect()
    }

    fn read(&self, rows: &Range<usize>) -> StoredRows<'_> {
        self.parts.each_ref().map(|part| {
            let bytes = bytes_of(part, rows);
            part.slice(bytes.start, bytes.end)
        })
    }

    /// Gives mapped pages back.
    fn release(&self, rows: &Range<usize>) {
        for part in &self.parts {
            let bytes = bytes_of(part, rows);
            part.release(bytes.start, bytes.end);
        }
    }
}

/// Returns the bytes that some rows of a tensor have.
fn bytes_of(part: &Tensor<'_>, rows: &Range<usize>) -> Range<usize> {
    let each = part.columns() * part.dtype.size();
    rows.start * each..rows.end * each
}
