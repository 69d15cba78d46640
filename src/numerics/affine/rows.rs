//! Rows of a matrix quantized and dequantized, slice by slice.

use super::dtype::FloatType;
use super::kernel::{Grid, decode};
use super::pack::unpack;
use rayon::prelude::*;

use super::block::{QuantizeBlock, SnapBlock};
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::wide::run_kernel;

/// The largest group size.
pub(crate) const MAX_GROUP: usize = 128;
/// Weights that one rayon task handles; a multiple of every group size.
const BLOCK: usize = 1 << 15;

/// Reason why weights cannot be quantized, or quantized weights not be read. It does not name file and tensor: the caller
/// knows them and puts them in front.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// Not a setting that MLX has, or one of another mode.
    #[error("MLX has no quantization {0} of this kind")]
    Unsupported(Quant),
    /// The group size does not divide the row.
    #[error("rows of {columns} weights do not divide into groups of {group_size}")]
    Columns {
        /// Weights in a row.
        columns: usize,
        /// The group size asked for.
        group_size: u32,
    },
    /// A buffer does not have the size that goes with the others.
    #[error("{what}: {found} where {expected} were expected")]
    Length {
        /// Name of the buffer, and the unit.
        what: &'static str,
        /// Length of the buffer.
        found: usize,
        /// Length that the buffer should have.
        expected: usize,
    },
    /// A weight is NaN or infinite in the type it is quantized in, or two of a group lie further apart than
    /// float32 can say.
    #[error("row {row}, columns {column} to {}: a value that is not finite in {dtype}", column + group_size - 1)]
    NotFinite {
        /// The row, from 0, within what was given.
        row: usize,
        /// The group's first column.
        column: usize,
        /// The group's length.
        group_size: usize,
        /// The type the weights are quantized in.
        dtype: FloatType,
    },
}

type Result<T, E = QuantizeError> = std::result::Result<T, E>;

/// Some rows of a weight: little-endian bytes of `dtype`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    bytes: &'a [u8],
    dtype: FloatType,
    columns: usize,
}

impl<'a> Rows<'a> {
    /// Takes rows of `columns` weights; `bytes` must hold a whole number of them.
    pub fn new(bytes: &'a [u8], dtype: FloatType, columns: usize) -> Result<Self> {
        whole_rows("bytes of weights", bytes.len(), columns.saturating_mul(dtype.bytes()))?;
        Ok(Self { bytes, dtype, columns })
    }

    /// Takes rows of values in memory (on a little-endian machine, as all that run MLX).
    pub fn from_f32(weights: &'a [f32], columns: usize) -> Result<Self> {
        Self::new(bytemuck::cast_slice(weights), FloatType::F32, columns)
    }

    /// Returns little-endian values of [`Rows::dtype`].
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the type of the weights.
    pub fn dtype(&self) -> FloatType {
        self.dtype
    }

    /// Returns the weights in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// True if there are no weights.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A quantized weight as MLX stores it, little-endian: `packed` is `u32` `[rows, columns * bits / 32]`,
/// `scales` and `biases` are `[rows, columns / group_size]`: floats in affine mode; in the floating-point modes one byte
/// per scale, and no biases. Owned, borrowed or borrowed for writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantized<B = Vec<u8>> {
    /// Codes, least significant bit first.
    pub packed: B,
    /// One per group.
    pub scales: B,
    /// One per group, or empty.
    pub biases: B,
}

impl Quantized {
    /// Makes room for `weights` weights.
    fn zeroed(weights: usize, layout: Layout) -> Self {
        let groups = weights / layout.group_size;
        let floats = groups * layout.dtype.bytes();
        Self {
            packed: vec![0; groups * layout.group_bytes()],
            scales: vec![0; floats],
            biases: vec![0; floats],
        }
    }

    /// Appends the rows of `below`.
    pub fn extend(&mut self, below: &Self) {
        self.packed.extend_from_slice(&below.packed);
        self.scales.extend_from_slice(&below.scales);
        self.biases.extend_from_slice(&below.biases);
    }

    /// Borrows the buffers.
    pub fn as_slices(&self) -> Quantized<&[u8]> {
        Quantized { packed: &self.packed, scales: &self.scales, biases: &self.biases }
    }

    /// Borrows the buffers for writing.
    pub fn as_mut_slices(&mut self) -> Quantized<&mut [u8]> {
        Quantized { packed: &mut self.packed, scales: &mut self.scales, biases: &mut self.biases }
    }
}

/// A checked setting, and the type of its scales and biases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) bits: u32,
    pub(crate) group_size: usize,
    pub(crate) dtype: FloatType,
}

impl Layout {
    fn new(quant: Quant, dtype: FloatType) -> Result<Self> {
        if quant.mode != Mode::Affine || quant.validate().is_err() {
            return Err(QuantizeError::Unsupported(quant));
        }
        Ok(Self { bits: quant.bits, group_size: quant.group_size as usize, dtype })
    }

    /// Checks the setting and the row.
    fn for_rows(quant: Quant, dtype: FloatType, columns: usize) -> Result<Self> {
        let layout = Self::new(quant, dtype)?;
        if !columns.is_multiple_of(layout.group_size) {
            return Err(QuantizeError::Columns { columns, group_size: quant.group_size });
        }
        Ok(layout)
    }

    /// Returns the bytes of one group's codes.
    pub(crate) const fn group_bytes(self) -> usize {
        self.group_size * self.bits as usize / 8
    }

    /// Returns the groups in a block.
    const fn block_groups(self) -> usize {
        BLOCK / self.group_size
    }

    fn expect_sizes(self, groups: usize, sizes: [usize; 3]) -> Result<()> {
        let floats = groups * self.dtype.bytes();
        same_length("bytes of packed codes", sizes[0], groups * self.group_bytes())?;
        same_length("bytes of scales", sizes[1], floats)?;
        same_length("bytes of biases", sizes[2], floats)
    }

    /// Returns `grid` as it is read back.
    #[inline]
    pub(crate) fn stored(self, grid: Grid) -> Grid {
        Grid { scale: self.dtype.round(grid.scale), bias: self.dtype.round(grid.bias) }
    }

    fn not_finite(self, group: usize, columns: usize) -> QuantizeError {
        let (at, group_size) = (group * self.group_size, self.group_size);
        QuantizeError::NotFinite { row: at / columns, column: at % columns, group_size, dtype: self.dtype }
    }
}

/// Fails unless `found` is as long as `expected`.
pub(crate) fn same_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(QuantizeError::Length { what, found, expected }) }
}

/// Fails unless `found` is a multiple of `row`.
pub(crate) fn whole_rows(what: &'static str, found: usize, row: usize) -> Result<()> {
    same_length(what, found, found.checked_div(row).unwrap_or(0) * row)
}

/// Quantizes as `mx.quantize(weights.astype(dtype), group_size, bits)`.
pub fn quantize(weights: Rows<'_>, quant: Quant, dtype: FloatType) -> Result<Quantized> {
    let layout = Layout::for_rows(quant, dtype, weights.columns)?;
    let mut out = Quantized::zeroed(weights.len(), layout);
    quantize_into(weights, quant, dtype, out.as_mut_slices())?;
    Ok(out)
}

/// Quantizes as [`quantize`], into the caller's buffers, whose sizes must be exactly those of the result.
pub fn quantize_into(
    weights: Rows<'_>,
    quant: Quant,
    dtype: FloatType,
    out: Quantized<&mut [u8]>,
) -> Result<()> {
    let layout = Layout::for_rows(quant, dtype, weights.columns)?;
    let Quantized { packed, scales, biases } = out;
    let sizes = [packed.len(), scales.len(), biases.len()];
    layout.expect_sizes(weights.len() / layout.group_size, sizes)?;
    let groups = layout.block_groups();
    let floats = groups * dtype.bytes();
    let bad = weights
        .bytes
        .par_chunks(BLOCK * weights.dtype.bytes())
        .zip(packed.par_chunks_mut(groups * layout.group_bytes()))
        .zip(scales.par_chunks_mut(floats))
        .zip(biases.par_chunks_mut(floats))
        .enumerate()
        .filter_map(|(block, (((bytes, packed), scales), biases))| {
            let out = Quantized { packed, scales, biases };
            let work = QuantizeBlock { weights: bytes, source: weights.dtype, layout, out };
            run_kernel(layout.group_size, work).err().map(|group| block * groups + group)
        })
        .min();
    bad.map_or(Ok(()), |group| Err(layout.not_finite(group, weights.columns)))
}

/// Decodes in float32 arithmetic, `scale * code + bias` with two roundings, whatever type scales and biases are
/// stored in: what `mx.dequantize` gives once they are cast to float32, as the engine does on the CPU.
/// `out` takes as many weights as were quantized.
pub fn dequantize(
    quantized: Quantized<&[u8]>,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
) -> Result<()> {
    let layout = Layout::new(quant, dtype)?;
    decode_groups(quantized, layout, out, 1, decode)
}

/// Decodes as `mx.dequantize` does: in the type scales and biases are stored in, product and sum both rounded
/// to it, which for 16-bit floats differs from [`dequantize`] in the last bits. `out` takes the little-endian
/// bytes of as many weights as were quantized.
pub fn dequantize_stored(
    quantized: Quantized<&[u8]>,
    quant: Quant,
    dtype: FloatType,
    out: &mut [u8],
) -> Result<()> {
    let layout = Layout::new(quant, dtype)?;
    decode_groups(quantized, layout, out, dtype.bytes(), |codes, grid, out| {
        let mut values = [0.0; MAX_GROUP];
        let values = &mut values[..layout.group_size];
        decode(codes, Grid { bias: 0.0, ..grid }, values);
        dtype.round_all(values);
        for value in values.iter_mut() {
            *value += grid.bias;
        }
        dtype.narrow(values, out);
    })
}

/// Calls `write(codes, grid, out)` for every group, in parallel; a weight takes `width` items of `out`.
fn decode_groups<T: Send>(
    quantized: Quantized<&[u8]>,
    layout: Layout,
    out: &mut [T],
    width: usize,
    write: impl Fn(&[u8], Grid, &mut [T]) + Sync,
) -> Result<()> {
    let (group_bytes, float_bytes) = (layout.group_bytes(), layout.dtype.bytes());
    let count = quantized.packed.len() / group_bytes;
    layout.expect_sizes(count, [quantized.packed.len(), quantized.scales.len(), quantized.biases.len()])?;
    same_length("room for decoded weights", out.len(), count * layout.group_size * width)?;
    let groups = layout.block_groups();
    quantized
        .packed
        .par_chunks(groups * group_bytes)
        .zip(quantized.scales.par_chunks(groups * float_bytes))
        .zip(quantized.biases.par_chunks(groups * float_bytes))
        .zip(out.par_chunks_mut(BLOCK * width))
        .for_each(|(((packed, scales), biases), out)| {
            let mut codes = [0; MAX_GROUP];
            let codes = &mut codes[..layout.group_size];
            let grids = scales.chunks_exact(float_bytes).zip(biases.chunks_exact(float_bytes));
            let outputs = out.chunks_exact_mut(layout.group_size * width);
            for ((packed, (scale, bias)), out) in packed.chunks_exact(group_bytes).zip(grids).zip(outputs) {
                unpack(packed, layout.bits, codes);
                let mut grid = [0.0; 2];
                layout.dtype.widen(scale, &mut grid[..1]);
                layout.dtype.widen(bias, &mut grid[1..]);
                write(codes, Grid { scale: grid[0], bias: grid[1] }, out);
            }
        });
    Ok(())
}

/// Quantizes and dequantizes, without the codes: what is left of `weights` (float32, rows of `columns`)
/// is written to `out`, of the same length.
pub fn quantize_dequantize(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
) -> Result<()> {
    snap_groups(weights, columns, quant, dtype, out, |_, snapped, out| out.copy_from_slice(snapped))
}

/// Returns the rounding error `Q(W) - W` of [`quantize_dequantize`], including what the cast to `dtype` costs.
pub fn rounding_error(weights: &[f32], columns: usize, quant: Quant, dtype: FloatType) -> Result<Vec<f32>> {
    let mut error = vec![0.0; weights.len()];
    rounding_error_into(weights, columns, quant, dtype, &mut error)?;
    Ok(error)
}

/// Writes [`rounding_error`] to `out`, which has as many items as `weights`; a kept buffer saves a third of the time.
pub fn rounding_error_into(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
) -> Result<()> {
    snap_groups(weights, columns, quant, dtype, out, |weights, snapped, out| {
        for ((out, snapped), weight) in out.iter_mut().zip(snapped).zip(weights) {
            *out = snapped - weight;
        }
    })
}

/// Calls `write(weights, snapped, out)` for every group, in parallel.
fn snap_groups(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
    write: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Result<()> {
    let layout = Layout::for_rows(quant, dtype, columns)?;
    whole_rows("weights", weights.len(), columns)?;
    same_length("room for decoded weights", out.len(), weights.len())?;
    let bad = weights
        .par_chunks(BLOCK)
        .zip(out.par_chunks_mut(BLOCK))
        .enumerate()
        .filter_map(|(block, (weights, out))| {
            let work = SnapBlock { weights, layout, out, write: &write };
            run_kernel(layout.group_size, work).err().map(|group| block * layout.block_groups() + group)
        })
        .min();
    bad.map_or(Ok(()), |group| Err(layout.not_finite(group, columns)))
}
