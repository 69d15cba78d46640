//! Rows of a stored tensor, in the order that the model has.

use std::borrow::Cow;
use std::ops::Range;

use crate::formats::backing::Make;
use crate::formats::stored::Stored;

/// Rows of equal length, one after the other in a file.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) stored: Stored,
    /// Bytes of a row.
    pub(super) bytes: usize,
    /// Rows of a head, where those of its first and of its second half lie in turn.
    pub(super) interleaved: Option<usize>,
}

impl Rows {
    /// Returns the row of the file that is number `row` of the model.
    fn place(&self, row: usize) -> usize {
        let Some(head) = self.interleaved else { return row };
        let (first, own) = (row / head * head, row % head);
        first + own % (head / 2) * 2 + own / (head / 2)
    }

    /// Reads `rows` of the model.
    pub(super) fn load(&self, rows: &Range<usize>) -> Loaded<'_> {
        let head = self.interleaved.unwrap_or(1);
        let span = rows.start / head * head..rows.end.next_multiple_of(head);
        let bytes = self.stored.tensor().slice(span.start * self.bytes, span.end * self.bytes);
        Loaded { of: self, span, bytes }
    }
}

/// Bytes of some rows.
pub(super) struct Loaded<'a> {
    of: &'a Rows,
    /// Rows of the file.
    span: Range<usize>,
    bytes: Cow<'a, [u8]>,
}

impl Loaded<'_> {
    /// Returns the bytes of a row of the model.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        let start = (self.of.place(row) - self.span.start) * self.of.bytes;
        &self.bytes[start..start + self.of.bytes]
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let bytes = self.of.bytes;
        self.of.stored.tensor().release(self.span.start * bytes, self.span.end * bytes);
    }
}

impl Make for Rows {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let loaded = self.load(&rows);
        rows.zip(out.chunks_mut(self.bytes)).for_each(|(row, out)| out.copy_from_slice(loaded.row(row)));
    }
}
