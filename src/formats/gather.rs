//! Values that do not lie one after the other in their file, or are changed as they are read.

use std::ops::Range;

use super::backing::Backing;
use crate::numerics::dtype::{Dtype, push_f32, widen_into};

/// Bytes of a file that are mapped at a time.
const BAND_BYTES: usize = 1 << 20;

/// Order and change of the values of a matrix that is read from a piece of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gather {
    /// Type of the elements in the file.
    pub(crate) stored: Dtype,
    /// Columns of the matrix.
    pub(crate) columns: usize,
    /// Elements in the file from a row to the next, and from a column to the next.
    pub(crate) strides: [usize; 2],
    /// Factor on each value, and what is added to the product; such values are float32.
    pub(crate) change: Option<[f32; 2]>,
}

impl Gather {
    /// Returns the type of the values.
    pub(crate) fn dtype(&self) -> Dtype {
        if self.change.is_some() { Dtype::F32 } else { self.stored }
    }

    /// Appends the bytes from number `range.start` to `range.end` of the matrix that begins at byte `start` of `map`. No page
    /// of the file stays mapped.
    pub(crate) fn read(&self, map: &Backing, start: usize, range: Range<usize>, out: &mut Vec<u8>) {
        let size = self.dtype().size();
        let elements = range.start / size..range.end.div_ceil(size);
        let mut values = vec![0; elements.len() * self.stored.size()];
        match self.stored.size() {
            1 => self.copy::<1>(map, start, &elements, &mut values),
            2 => self.copy::<2>(map, start, &elements, &mut values),
            4 => self.copy::<4>(map, start, &elements, &mut values),
            _ => self.copy::<8>(map, start, &elements, &mut values),
        }
        if let Some(change) = self.change {
            values = changed(self.stored, &values, change);
        }
        let skipped = range.start - elements.start * size;
        out.extend_from_slice(&values[skipped..skipped + range.len()]);
    }

    /// Copies `elements` of the matrix, of `N` bytes each, a band of the file at a time.
    fn copy<const N: usize>(&self, map: &Backing, start: usize, elements: &Range<usize>, out: &mut [u8]) {
        if elements.is_empty() {
            return;
        }
        let (columns, [row_stride, column_stride]) = (self.columns, self.strides);
        let rows = elements.start / columns..(elements.end - 1) / columns + 1;
        let in_rows = row_stride >= column_stride;
        // Of a single row, such as a vector, no columns are read but those asked for.
        let columns_read = match rows.len() {
            1 => elements.start - rows.start * columns..elements.end - rows.start * columns,
            _ => 0..columns,
        };
        let (outer, stride) =
            if in_rows { (rows.clone(), row_stride) } else { (columns_read.clone(), column_stride) };
        let step = (BAND_BYTES / (stride * N).max(1)).max(1);
        for first in outer.clone().step_by(step) {
            let band = first..(first + step).min(outer.end);
            let (rows, columns) = if in_rows { (band, columns_read.clone()) } else { (rows.clone(), band) };
            let place = |row: usize, column: usize| start + (row * row_stride + column * column_stride) * N;
            let (from, to) = (place(rows.start, columns.start), place(rows.end - 1, columns.end - 1) + N);
            let bytes = map.populated(from, to);
            for row in rows {
                let number = row * self.columns;
                let part = columns.start.max(elements.start.saturating_sub(number))
                    ..columns.end.min(elements.end - number);
                if column_stride == 1 {
                    let (at, to) =
                        (place(row, part.start) - from, (number + part.start - elements.start) * N);
                    out[to..to + part.len() * N].copy_from_slice(&bytes[at..at + part.len() * N]);
                    continue;
                }
                for column in part {
                    let (at, to) = (place(row, column) - from, (number + column - elements.start) * N);
                    out[to..to + N].copy_from_slice(&bytes[at..at + N]);
                }
            }
            map.release(from, to);
        }
    }
}

/// Returns `values`, multiplied and shifted, as float32.
fn changed(stored: Dtype, values: &[u8], [factor, shift]: [f32; 2]) -> Vec<u8> {
    let mut wide = vec![0.0; values.len() / stored.size()];
    widen_into(stored, values, &mut wide);
    for value in &mut wide {
        *value = *value * factor + shift;
    }
    let mut bytes = Vec::new();
    push_f32(&wide, Dtype::F32, &mut bytes);
    bytes
}
