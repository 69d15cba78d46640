//! Matrices of integer codes with scales and zero points, whatever the order in which they lie. Where columns follow one another
//! in groups they are affine layers of MLX with the same numbers; otherwise they are decoded.

use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::condition::Condition;
use super::grid::{AWQ_PLACES, Grid};
use super::layer::{Layer, Part, Values, affine_group, shared};
use super::packing::Packing;
use crate::formats::backing::Make;
use crate::formats::stored::Stored;
use crate::numerics::affine::pack;
use crate::numerics::dtype::{Dtype, push_f32};
use crate::numerics::quant::{AFFINE_BITS, Quant};

/// Matrix of integer codes.
#[derive(Debug)]
pub(crate) struct Integers {
    pub(crate) codes: Codes,
    pub(crate) grid: Grid,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bits: u32,
}

/// Codes in the order in which a tool stores them.
#[derive(Debug)]
pub(crate) enum Codes {
    /// Words of each row, [rows, words], lowest bits first.
    Rows(Stored, Packing),
    /// A stream of bits down each column of words, [columns * bits / 32, rows].
    Columns(Stored),
    /// Words of eight rows in AWQ's order, [columns, rows / 8].
    Awq(Stored),
    /// Signed bytes, 128 below the code.
    Signed(Stored),
}

impl Integers {
    /// Returns the layer in `form`: MLX's if it has the same numbers, and else its values.
    pub(crate) fn layer(self, form: &'static str) -> Layer {
        let shape = vec![self.rows, self.columns];
        let conditions = vec![Condition::scales(&self.grid.scales)];
        let quant = self.quant();
        let all = Arc::new(self);
        let values = match quant {
            Some(quant) => Values::Mlx {
                quant,
                codes: Part::Made(Dtype::U32, shared(&all, Packed)),
                scales: Part::Made(all.grid.dtype(), shared(&all, |of| Groups { of, quant, biases: false })),
                biases: Some(Part::Made(
                    all.grid.dtype(),
                    shared(&all, |of| Groups { of, quant, biases: true }),
                )),
            },
            None => Values::Floats(shared(&all, Decoded)),
        };
        Layer { form, shape, values, conditions }
    }

    /// Returns MLX's setting with the same numbers.
    fn quant(&self) -> Option<Quant> {
        let is_known = AFFINE_BITS.contains(&self.bits) && self.grid.order.is_none();
        let group = affine_group(&[self.grid.width, self.columns]).filter(|_| is_known);
        group.map(|group| Quant::affine(self.bits, group))
    }

    /// Returns the group that a column is in.
    fn group_of(&self, column: usize) -> usize {
        match &self.grid.order {
            Some(order) => order.get(column).map_or(0, |&group| group as usize),
            None => column / self.grid.width,
        }
    }

    /// Reads the codes of `rows`.
    fn load(&self, rows: &Range<usize>) -> LoadedCodes<'_> {
        let (stored, range) = match &self.codes {
            Codes::Rows(stored, _) | Codes::Signed(stored) => {
                let row = stored.len() / self.rows;
                (stored, rows.start * row..rows.end * row)
            }
            Codes::Columns(stored) | Codes::Awq(stored) => (stored, 0..stored.len()),
        };
        LoadedCodes { of: self, stored, first: rows.start, bytes: stored.bytes(range.clone()), range }
    }
}

/// Codes of some rows.
struct LoadedCodes<'a> {
    of: &'a Integers,
    stored: &'a Stored,
    first: usize,
    bytes: Cow<'a, [u8]>,
    range: Range<usize>,
}

impl LoadedCodes<'_> {
    /// Writes the codes of a row.
    fn row(&self, row: usize, codes: &mut [u8]) {
        let Integers { rows, bits, .. } = *self.of;
        match self.of.codes {
            Codes::Rows(_, packing) => {
                let first = (row - self.first) * (self.stored.len() / rows);
                let read = |column| packing.number(column, bits, |word| self.word(first + word));
                codes.iter_mut().enumerate().for_each(|(column, code)| *code = read(column) as u8);
            }
            Codes::Columns(_) => {
                let read = |column| Packing::Stream.number(column, bits, |word| self.word(word * rows + row));
                codes.iter_mut().enumerate().for_each(|(column, code)| *code = read(column) as u8);
            }
            Codes::Awq(_) => {
                let shift = 4 * AWQ_PLACES[row % 8];
                for (column, code) in codes.iter_mut().enumerate() {
                    *code = (self.word(column * (rows / 8) + row / 8) >> shift & 15) as u8;
                }
            }
            Codes::Signed(_) => {
                let at = (row - self.first) * codes.len();
                codes.iter_mut().zip(&self.bytes[at..]).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
        }
    }

    fn word(&self, index: usize) -> u32 {
        let bytes = self.bytes[4 * index..].first_chunk().copied();
        u32::from_le_bytes(bytes.unwrap_or_default())
    }
}

impl Drop for LoadedCodes<'_> {
    fn drop(&mut self) {
        self.stored.release(self.range.clone());
    }
}

/// Codes as MLX packs them.
#[derive(Debug)]
struct Packed(Arc<Integers>);

impl Make for Packed {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let Integers { columns, bits, .. } = *self.0;
        let codes = self.0.load(&rows);
        if let Codes::Rows(_, Packing::Stream) = self.0.codes {
            // MLX's packing too.
            out.copy_from_slice(&codes.bytes);
            return;
        }
        out.par_chunks_mut(columns * bits as usize / 8).zip(rows).for_each_init(
            || vec![0; columns],
            |row_codes, (out, row)| {
                codes.row(row, row_codes);
                pack(row_codes, bits, out);
            },
        );
    }
}

/// Scales or biases of MLX's groups.
#[derive(Debug)]
struct Groups {
    of: Arc<Integers>,
    quant: Quant,
    biases: bool,
}

impl Make for Groups {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let group_size = self.quant.group_size as usize;
        let groups = self.of.columns / group_size;
        let grid = self.of.grid.load(&rows);
        let mut values = Vec::with_capacity(rows.len() * groups);
        for row in rows {
            values.extend((0..groups).map(|group| {
                let group = self.of.group_of(group * group_size);
                let scale = grid.scale(row, group);
                if self.biases { -(grid.zero(row, group) * scale) } else { scale }
            }));
        }
        let mut bytes = Vec::with_capacity(out.len());
        push_f32(&values, self.of.grid.dtype(), &mut bytes);
        out.copy_from_slice(&bytes);
    }
}

/// Values in float32.
#[derive(Debug)]
struct Decoded(Arc<Integers>);

impl Make for Decoded {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let of = &self.0;
        let (codes, grid) = (of.load(&rows), of.grid.load(&rows));
        out.par_chunks_mut(of.columns * 4).zip(rows).for_each_init(
            || vec![0; of.columns],
            |row_codes, (out, row)| {
                codes.row(row, row_codes);
                let values = out.as_chunks_mut::<4>().0.iter_mut().zip(&*row_codes).enumerate();
                for (column, (value, &code)) in values {
                    let group = of.group_of(column);
                    let weight = (f32::from(code) - grid.zero(row, group)) * grid.scale(row, group);
                    *value = weight.to_le_bytes();
                }
            },
        );
    }
}
