//! Tensors whose elements do not lie one after the other.

use std::ops::Range;

use crate::files::mapped::Mapped;
use crate::formats::backing::Make;

/// Elements of a mapped file by sizes and strides.
#[derive(Debug)]
pub(crate) struct Strided {
    pub(crate) map: Mapped,
    /// Byte of the first element.
    pub(crate) start: usize,
    /// Bytes of an element.
    pub(crate) size: usize,
    pub(crate) shape: Vec<usize>,
    /// Elements from an index to the next of each axis.
    pub(crate) strides: Vec<usize>,
}

impl Strided {
    /// Returns the byte where a row begins; rows are those of all leading indices.
    fn row(&self, mut row: usize) -> usize {
        let axes = self.shape.len().saturating_sub(1);
        let mut offset = 0;
        for (size, stride) in self.shape[..axes].iter().zip(&self.strides[..axes]).rev() {
            offset += row % size * stride;
            row /= size;
        }
        self.start + offset * self.size
    }
}

impl Make for Strided {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let columns = self.shape.last().copied().unwrap_or(1);
        let step = self.strides.last().copied().unwrap_or(1) * self.size;
        for (row, out) in rows.zip(out.chunks_mut(columns * self.size)) {
            let start = self.row(row);
            for (column, out) in out.chunks_mut(self.size).enumerate() {
                let at = start + column * step;
                out.copy_from_slice(&self.map[at..at + self.size]);
            }
        }
        let last =
            self.shape.iter().zip(&self.strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>();
        self.map.release(self.start, self.start + (last + 1) * self.size);
    }
}
