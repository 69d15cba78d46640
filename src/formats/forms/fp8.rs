//! FP8: codes of E4M3 with a scale for the tensor, each row or each block. Where all scales are powers of two, MLX's mxfp8 has
//! the same numbers.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

use super::condition::Condition;
use super::layer::{Layer, Part, Values, shared};
use super::parts::{FLOATS, Parts};
use crate::error::Result;
use crate::formats::backing::Make;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Mode;

/// Columns that share a scale in mxfp8.
const GROUP: usize = 32;

/// Ends of the scales' names, after the weight's name.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// Ends of the names of what belongs to quantized activations, after the weight's name without `weight`.
const UNUSED: [&str; 3] = ["input_scale", "activation_scale", "input_scale_ub"];

/// Values that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of the tensor, or each of its rows, as the scale's shape says.
    TensorOrRows,
    /// Blocks of this many rows and columns.
    Blocks([usize; 2]),
}

#[derive(Debug)]
struct Fp8 {
    codes: Stored,
    scales: Stored,
    /// Rows and columns of each matrix, of which several may lie one after the other.
    rows: usize,
    columns: usize,
    /// Rows and columns of a block.
    block: [usize; 2],
    /// True if one scale is that of all matrices.
    is_single: bool,
}

/// Reads the layer whose weight is called `parts.path`.
pub(crate) fn read(extent: Extent, parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as("", &[Dtype::F8E4M3])?;
    let found = SCALES.iter().find_map(|end| parts.find(end));
    let Some(scales) = found else {
        return Err(codes
            .error(format!(
                "is {} without `{}_scale_inv` or `{}_scale`",
                codes.dtype(),
                codes.name,
                codes.name
            ))
            .hint("numbers of 8 bits mean nothing without their scale: the download is incomplete"));
    };
    let scales = super::parts::of_type(scales, &[&FLOATS[..], &[Dtype::F8E8M0]].concat())?;
    let layer = parts.path.strip_suffix("weight").unwrap_or_default().to_owned();
    parts.leave(UNUSED.iter().map(|end| format!("{layer}{end}")));
    let [.., rows, columns] = *codes.shape() else {
        return Err(codes.error(format!("shape {:?}, expected a matrix", codes.shape())));
    };
    if codes.len() == 0 {
        return Err(codes.error(format!("shape {:?} has no values", codes.shape())));
    }
    let (block, is_single) = block(extent, &codes, &scales)?;
    let is_weight = parts.path.ends_with(".weight");
    let all = Arc::new(Fp8 { codes, scales, rows, columns, block, is_single });
    Ok(layer_of(&all, extent, is_weight))
}

fn layer_of(all: &Arc<Fp8>, extent: Extent, is_weight: bool) -> Layer {
    let form = match (extent, all.is_single) {
        (Extent::Blocks(_), _) => "fp8 blocks",
        (_, true) => "fp8 tensor",
        _ => "fp8 rows",
    };
    let mut conditions = vec![Condition::scales(&all.scales)];
    let values = if is_weight && all.has_powers() {
        conditions.push(Condition::codes(&all.codes));
        Values::Mlx {
            quant: Mode::Mxfp8.default_quant(),
            codes: Part::Same(Box::new(all.codes.clone())),
            scales: Part::Made(Dtype::U8, shared(all, Exponents)),
            biases: None,
        }
    } else {
        Values::Floats(shared(all, Decoded))
    };
    Layer { form, shape: all.codes.shape().to_vec(), values, conditions }
}

/// Returns rows and columns of the blocks that share a scale, and whether there is one scale for all.
fn block(extent: Extent, codes: &Stored, scales: &Stored) -> Result<([usize; 2], bool)> {
    let shape = codes.shape();
    let (leading, matrix) = shape.split_at(shape.len() - 2);
    let (rows, columns) = (matrix[0], matrix[1]);
    let found = scales.shape();
    let expected = match extent {
        Extent::Blocks([height, width]) => {
            let blocks = [leading, &[rows.div_ceil(height), columns.div_ceil(width)]].concat();
            if found == blocks {
                return Ok(([height, width], false));
            }
            format!("{blocks:?}: a scale for blocks of {height} x {width}")
        }
        Extent::TensorOrRows => {
            let single = scales.len() == 1 && found.len() <= 1;
            let by_row = [[leading, &[rows, 1]].concat(), [leading, &[rows]].concat()];
            let by_matrix = [[leading, &[1, 1]].concat(), leading.to_vec()];
            if single && leading.is_empty() {
                return Ok(([rows, columns], true));
            }
            if by_row.iter().any(|shape| shape == found) {
                return Ok(([1, columns], false));
            }
            if by_matrix.iter().any(|shape| shape == found) {
                return Ok(([rows, columns], leading.is_empty()));
            }
            format!("one scale or {:?}", by_row[0])
        }
    };
    Err(scales
        .error(format!("shape {found:?}, expected {expected} of `{}` {shape:?}", codes.name))
        .hint("config.json and the weights do not belong together, or the file is damaged"))
}

impl Fp8 {
    /// Returns the scales in a row of blocks.
    fn width(&self) -> usize {
        self.columns.div_ceil(self.block[1])
    }

    /// Returns the row of blocks that a row of all matrices is in.
    fn row_of_blocks(&self, row: usize) -> usize {
        row / self.rows * self.rows.div_ceil(self.block[0]) + row % self.rows / self.block[0]
    }

    /// Returns the scales of `rows`, and the first row of blocks among them.
    fn scales(&self, rows: &Range<usize>) -> (usize, Vec<f32>) {
        let (first, last) = (self.row_of_blocks(rows.start), self.row_of_blocks(rows.end - 1));
        (first, self.scales.values(first * self.width()..(last + 1) * self.width()))
    }

    /// True if every scale is a power of two that mxfp8 has, and no group lies in two blocks.
    fn has_powers(&self) -> bool {
        const STEP: usize = 1 << 12;
        let is_aligned = self.columns.is_multiple_of(GROUP)
            && (self.block[1].is_multiple_of(GROUP) || self.block[1] >= self.columns);
        let is_power = |value: &f32| {
            let is_normal = value.is_normal() && value.to_bits().trailing_zeros() >= 23;
            value.is_sign_positive() && (is_normal || value.to_bits() == 1 << 22)
        };
        let length = self.scales.len();
        let mut steps = (0..length).step_by(STEP).map(|start| start..(start + STEP).min(length));
        is_aligned && steps.all(|range| self.scales.values(range).iter().all(is_power))
    }
}

/// Values in float32: code times scale.
#[derive(Debug)]
struct Decoded(Arc<Fp8>);

impl Make for Decoded {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let of = &self.0;
        let (columns, width) = (of.columns, of.width());
        let values = of.codes.values(rows.start * columns..rows.end * columns);
        let (first, scales) = of.scales(&rows);
        out.par_chunks_mut(columns * 4).zip(values.par_chunks(columns)).zip(rows).for_each(
            |((out, values), row)| {
                let at = (of.row_of_blocks(row) - first) * width;
                let blocks = values.chunks(of.block[1]).zip(&scales[at..at + width]);
                let products =
                    blocks.flat_map(|(values, scale)| values.iter().map(move |value| value * scale));
                out.as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(products)
                    .for_each(|(out, value)| *out = value.to_le_bytes());
            },
        );
    }
}

/// Exponents of mxfp8.
#[derive(Debug)]
struct Exponents(Arc<Fp8>);

impl Make for Exponents {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let of = &self.0;
        let width = of.width();
        let (first, scales) = of.scales(&rows);
        let groups = of.columns / GROUP;
        for (out, row) in out.chunks_mut(groups).zip(rows) {
            let at = (of.row_of_blocks(row) - first) * width;
            for (group, exponent) in out.iter_mut().enumerate() {
                // The exponent's bits; those of 2^-127, which is subnormal, are zero.
                *exponent = (scales[at + group * GROUP / of.block[1]].to_bits() >> 23) as u8;
            }
        }
    }
}
