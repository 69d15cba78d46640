//! Scales and zero points of integer codes: w = (code - zero) * scale, for groups of columns of each row.

use std::borrow::Cow;

use super::packing::Packing;
use super::parts::{FLOATS, of_shape};
use crate::error::Result;
use crate::formats::stored::Stored;
use crate::numerics::dtype::{Dtype, extend_f32};

/// Order of the four-bit numbers in a word of AWQ: where the number of each of eight outputs lies.
pub(crate) const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Scales and zero points of a matrix.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) scales: Stored,
    pub(crate) zeros: Zeros,
    /// True if scales lie as [groups, rows], otherwise as [rows, groups].
    pub(crate) by_group: bool,
    pub(crate) rows: usize,
    pub(crate) groups: usize,
    /// Columns of a group.
    pub(crate) width: usize,
    /// Group of each column, where they do not follow one another.
    pub(crate) order: Option<Vec<u32>>,
    /// Factor on each scale.
    pub(crate) factor: f32,
}

/// Zero points.
#[derive(Debug)]
pub(crate) enum Zeros {
    /// One for all.
    Same(f32),
    /// Words along the rows of each group, [groups, rows * bits / 32]: a stream of bits. `plus` is added to each, which then
    /// has as many bits.
    Stream { words: Stored, bits: u32, plus: u32 },
    /// Four-bit numbers along the rows of each group in AWQ's order, [groups, rows / 8].
    Awq(Stored),
    /// Words of the rows of each group, lowest bits first: [words, groups].
    Columns { words: Stored, bits: u32, packing: Packing },
    /// Signed bytes of each row and group, and what is added to them.
    Signed { bytes: Stored, plus: f32 },
}

impl Grid {
    /// Returns the grid of a matrix of `width` columns in a group, whose scales lie as [rows, groups]. Checks their shape.
    pub(crate) fn by_row(
        scales: Stored,
        zeros: Zeros,
        [rows, columns]: [usize; 2],
        width: usize,
    ) -> Result<Self> {
        let groups = columns.div_ceil(width);
        of_shape(&scales, &[rows, groups])?;
        Ok(Self { scales, zeros, by_group: false, rows, groups, width, order: None, factor: 1.0 })
    }

    /// Returns the grid of a matrix of `width` columns in a group, whose scales lie as [groups, rows]. Checks their shape.
    pub(crate) fn by_group(
        scales: Stored,
        zeros: Zeros,
        [rows, columns]: [usize; 2],
        width: usize,
    ) -> Result<Self> {
        let groups = columns.div_ceil(width);
        of_shape(&scales, &[groups, rows])?;
        Ok(Self { scales, zeros, by_group: true, rows, groups, width, order: None, factor: 1.0 })
    }

    /// Returns the element type in which scales and biases are exact: that of the scales where zero points are powers of two.
    pub(crate) fn dtype(&self) -> Dtype {
        let is_exact = matches!(self.zeros, Zeros::Same(zero) if zero.log2().fract() == 0.0);
        let keeps =
            is_exact && self.factor.to_bits() == 1f32.to_bits() && FLOATS.contains(&self.scales.dtype());
        if keeps { self.scales.dtype() } else { Dtype::F32 }
    }

    /// Reads what `range` of rows needs.
    pub(crate) fn load(&self, range: &std::ops::Range<usize>) -> Loaded<'_> {
        let (rows, groups) = (self.rows, self.groups);
        let scales = if self.by_group { 0..rows * groups } else { range.start * groups..range.end * groups };
        let mut values = Vec::new();
        extend_f32(self.scales.dtype(), &self.scales.bytes(scales.clone()), &mut values);
        self.scales.release(scales);
        let zeros = match &self.zeros {
            Zeros::Same(_) => Cow::Borrowed(&[][..]),
            Zeros::Signed { bytes, .. } => bytes.all_bytes(),
            Zeros::Stream { words, .. } | Zeros::Columns { words, .. } | Zeros::Awq(words) => {
                words.all_bytes()
            }
        };
        Loaded { grid: self, first: if self.by_group { 0 } else { range.start }, scales: values, zeros }
    }
}

/// Scales and zero points of some rows.
pub(crate) struct Loaded<'a> {
    grid: &'a Grid,
    /// First row whose scales are here.
    first: usize,
    scales: Vec<f32>,
    zeros: Cow<'a, [u8]>,
}

impl Loaded<'_> {
    /// Returns the scale of a row's group.
    pub(crate) fn scale(&self, row: usize, group: usize) -> f32 {
        let grid = self.grid;
        let place =
            if grid.by_group { group * grid.rows + row } else { (row - self.first) * grid.groups + group };
        self.scales[place] * grid.factor
    }

    /// Returns the zero point of a row's group.
    pub(crate) fn zero(&self, row: usize, group: usize) -> f32 {
        let (rows, groups) = (self.grid.rows, self.grid.groups);
        match self.grid.zeros {
            Zeros::Same(zero) => zero,
            Zeros::Stream { bits, plus, .. } => {
                let first = group * (rows * bits as usize / 32);
                let code = Packing::Stream.number(row, bits, |word| self.word(first + word));
                ((code + plus) & ((1 << bits) - 1)) as f32
            }
            Zeros::Awq(_) => {
                let word = self.word(group * (rows / 8) + row / 8);
                (word >> (4 * AWQ_PLACES[row % 8]) & 15) as f32
            }
            Zeros::Columns { bits, packing, .. } => {
                packing.number(row, bits, |word| self.word(word * groups + group)) as f32
            }
            Zeros::Signed { plus, .. } => f32::from(self.zeros[row * groups + group].cast_signed()) + plus,
        }
    }

    fn word(&self, index: usize) -> u32 {
        let bytes = self.zeros[4 * index..].first_chunk().copied();
        u32::from_le_bytes(bytes.unwrap_or_default())
    }
}
