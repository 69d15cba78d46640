//! Bytes behind tensors: those of a mapped file, or made of other tensors' as they are read.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;

use super::npz;
use crate::files::mapped::Mapped;

/// Weight file, or what is made of tensors in one, with the checksums that its format has.
#[derive(Debug)]
pub(crate) struct WeightFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Backing,
    pub(crate) checksums: Vec<npz::Checksum>,
}

/// Bytes of a weight file.
#[derive(Debug)]
pub(crate) enum Backing {
    Mapped(Mapped),
    Made(Made),
}

impl Backing {
    /// Returns the bytes from `start` to `end`; mapped pages are mapped in one go.
    pub(crate) fn populated(&self, start: usize, end: usize) -> Cow<'_, [u8]> {
        match self {
            Self::Mapped(map) => Cow::Borrowed(map.populated(start, end)),
            Self::Made(made) => Cow::Owned(made.read(start..end)),
        }
    }

    /// Tells the kernel that these bytes were read and need not stay mapped.
    pub(crate) fn release(&self, start: usize, end: usize) {
        if let Self::Mapped(map) = self {
            map.release(start, end);
        }
    }
}

/// Rows of a matrix that are made when they are read, and kept nowhere.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) row_bytes: usize,
    pub(crate) rows: Box<dyn Make>,
}

/// Maker of a matrix' rows. Sizes and types of what it is made of were checked when it was set up.
pub(crate) trait Make: Debug + Send + Sync {
    /// Writes the bytes of `rows`, little-endian, one row after the other.
    fn make(&self, rows: Range<usize>, out: &mut [u8]);
}

impl Made {
    fn read(&self, range: Range<usize>) -> Vec<u8> {
        if range.is_empty() {
            return Vec::new();
        }
        let row = self.row_bytes;
        let rows = range.start / row..range.end.div_ceil(row);
        let skipped = range.start - rows.start * row;
        let mut bytes = vec![0; rows.len() * row];
        self.rows.make(rows, &mut bytes);
        bytes.truncate(skipped + range.len());
        bytes.drain(..skipped);
        bytes
    }
}
