//! Rows of a matrix in a floating-point mode, quantized and dequantized slice by slice.

use rayon::prelude::*;

use super::minifloat::{
    E2M1, E2M1_MAX, E4M3, E4M3_MAX, from_e8m0, to_e2m1, to_e2m1_saturated, to_e4m3, to_e8m0_up,
};
use crate::numerics::affine::{
    FloatType, QuantizeError, Quantized, Rows, pack, same_length, unpack, whole_rows,
};
use crate::numerics::quant::{Mode, Quant};
use crate::numerics::wide::{Kernel, run_kernel};

/// The largest group size.
const MAX_GROUP: usize = 32;
/// Weights that one rayon task handles; a multiple of every group size.
const BLOCK: usize = 1 << 15;

type Result<T, E = QuantizeError> = std::result::Result<T, E>;

/// A floating-point mode, and the type that weights are quantized in.
#[derive(Debug, Clone, Copy)]
struct Format {
    mode: Mode,
    bits: u32,
    group_size: usize,
    dtype: FloatType,
}

/// Scale of a group, which its codes are multiplied with.
#[derive(Debug, Clone, Copy)]
struct Scale {
    code: u8,
    value: f32,
}

impl Format {
    fn new(quant: Quant, dtype: FloatType) -> Result<Self> {
        if quant.mode == Mode::Affine || quant.validate().is_err() {
            return Err(QuantizeError::Unsupported(quant));
        }
        Ok(Self { mode: quant.mode, bits: quant.bits, group_size: quant.group_size as usize, dtype })
    }

    /// Checks the setting and the row.
    fn for_rows(quant: Quant, dtype: FloatType, columns: usize) -> Result<Self> {
        let format = Self::new(quant, dtype)?;
        if !columns.is_multiple_of(format.group_size) {
            return Err(QuantizeError::Columns { columns, group_size: quant.group_size });
        }
        Ok(format)
    }

    /// Returns the bytes of one group's codes.
    const fn group_bytes(self) -> usize {
        self.group_size * self.bits as usize / 8
    }

    /// Returns the groups in a block.
    const fn block_groups(self) -> usize {
        BLOCK / self.group_size
    }

    /// Fails unless the buffers have the sizes of `groups` groups.
    fn expect_sizes<B: AsRef<[u8]>>(self, groups: usize, quantized: &Quantized<B>) -> Result<()> {
        let length = |buffer: &B| buffer.as_ref().len();
        same_length("bytes of packed codes", length(&quantized.packed), groups * self.group_bytes())?;
        same_length("bytes of scales", length(&quantized.scales), groups)?;
        same_length("bytes of biases", length(&quantized.biases), 0)
    }

    /// Returns the scale of a group (values of `dtype`): its largest magnitude becomes the largest code. `None` where a
    /// weight is not finite.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn scale(self, group: &[f32]) -> Option<Scale> {
        let largest = group.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        let most = if self.mode == Mode::Mxfp8 { E4M3_MAX } else { E2M1_MAX };
        let wanted = self.dtype.round(largest / most);
        let code = match self.mode {
            Mode::Nvfp4 => to_e4m3(wanted),
            _ if wanted == 0.0 => return largest.is_finite().then_some(Scale { code: 127, value: 1.0 }),
            _ => to_e8m0_up(wanted),
        };
        largest.is_finite().then_some(Scale { code, value: self.scale_value(code) })
    }

    fn scale_value(self, code: u8) -> f32 {
        if self.mode == Mode::Nvfp4 { E4M3[usize::from(code)] } else { from_e8m0(code) }
    }

    /// Returns the value of a code, before the scale.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn code_value(self, code: u8) -> f32 {
        if self.bits == 8 { E4M3[usize::from(code)] } else { E2M1[usize::from(code & 15)] }
    }

    /// Writes the codes nearest to the weights of a group.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn encode(self, group: &[f32], scale: Scale, codes: &mut [u8]) {
        let pairs = codes.iter_mut().zip(group);
        match self.mode {
            Mode::Nvfp4 if scale.code == 0 => codes.fill(0),
            Mode::Nvfp4 if scale.code == 0x7e => pairs.for_each(|(code, &value)| {
                *code = to_e2m1_saturated(self.dtype.round(value / scale.value));
            }),
            Mode::Nvfp4 => pairs.for_each(|(code, &value)| {
                *code = to_e2m1(self.dtype.round(value / scale.value));
            }),
            // Dividing by a power of two is exact, but for what is too small to matter.
            Mode::Mxfp8 => pairs.for_each(|(code, &value)| *code = to_e4m3(value / scale.value)),
            _ => pairs.for_each(|(code, &value)| *code = to_e2m1(value / scale.value)),
        }
    }

    fn not_finite(self, group: usize, columns: usize) -> QuantizeError {
        let (at, group_size) = (group * self.group_size, self.group_size);
        QuantizeError::NotFinite { row: at / columns, column: at % columns, group_size, dtype: self.dtype }
    }
}

/// Quantizes as `mx.quantize(weights.astype(dtype), mode=quant.mode)`.
pub fn quantize(weights: Rows<'_>, quant: Quant, dtype: FloatType) -> Result<Quantized> {
    let format = Format::for_rows(quant, dtype, weights.columns())?;
    let groups = weights.len() / format.group_size;
    let mut out =
        Quantized { packed: vec![0; groups * format.group_bytes()], scales: vec![0; groups], biases: vec![] };
    let block = format.block_groups();
    let bad = weights
        .bytes()
        .par_chunks(BLOCK * weights.dtype().bytes())
        .zip(out.packed.par_chunks_mut(block * format.group_bytes()))
        .zip(out.scales.par_chunks_mut(block))
        .enumerate()
        .filter_map(|(index, ((bytes, packed), scales))| {
            let work = QuantizeBlock { weights: bytes, source: weights.dtype(), format, packed, scales };
            run_kernel(format.group_size, work).err().map(|group| index * block + group)
        })
        .min();
    bad.map_or(Ok(out), |group| Err(format.not_finite(group, weights.columns())))
}

/// Weights (bytes of type `source`) to codes and scales.
struct QuantizeBlock<'a> {
    weights: &'a [u8],
    source: FloatType,
    format: Format,
    packed: &'a mut [u8],
    scales: &'a mut [u8],
}

impl Kernel for QuantizeBlock<'_> {
    type Output = Result<(), usize>;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn run<const GROUP: usize>(self) -> Result<(), usize> {
        let format = self.format;
        let mut group = [0.0; GROUP];
        let mut codes = [0; GROUP];
        let outputs = self.packed.chunks_exact_mut(format.group_bytes()).zip(self.scales);
        let inputs = self.weights.chunks_exact(GROUP * self.source.bytes());
        for (i, (bytes, (packed, stored))) in inputs.zip(outputs).enumerate() {
            self.source.widen(bytes, &mut group);
            format.dtype.round_all(&mut group);
            let scale = format.scale(&group).ok_or(i)?;
            format.encode(&group, scale, &mut codes);
            pack(&codes, format.bits, packed);
            *stored = scale.code;
        }
        Ok(())
    }
}

/// Decodes to float32, exactly. `out` takes as many weights as were quantized.
pub fn dequantize(quantized: Quantized<&[u8]>, quant: Quant, out: &mut [f32]) -> Result<()> {
    let format = Format::new(quant, FloatType::F32)?;
    decode_groups(quantized, format, out, 1, |values, out| out.copy_from_slice(values))
}

/// Decodes as `mx.dequantize(.., dtype=dtype)` does: scale, code and product are all rounded to `dtype`, so that float16
/// may lose scales beyond its range. `out` takes the little-endian bytes of as many weights as were quantized.
pub fn dequantize_stored(
    quantized: Quantized<&[u8]>,
    quant: Quant,
    dtype: FloatType,
    out: &mut [u8],
) -> Result<()> {
    let format = Format::new(quant, dtype)?;
    decode_groups(quantized, format, out, dtype.bytes(), |values, out| dtype.narrow(values, out))
}

/// Calls `write(values, out)` for every group, in parallel; a weight takes `width` items of `out`.
fn decode_groups<T: Send>(
    quantized: Quantized<&[u8]>,
    format: Format,
    out: &mut [T],
    width: usize,
    write: impl Fn(&[f32], &mut [T]) + Sync,
) -> Result<()> {
    let group_bytes = format.group_bytes();
    let count = quantized.packed.len() / group_bytes;
    format.expect_sizes(count, &quantized)?;
    same_length("room for decoded weights", out.len(), count * format.group_size * width)?;
    let block = format.block_groups();
    quantized
        .packed
        .par_chunks(block * group_bytes)
        .zip(quantized.scales.par_chunks(block))
        .zip(out.par_chunks_mut(BLOCK * width))
        .for_each(|((packed, scales), out)| {
            let (mut codes, mut values) = ([0; MAX_GROUP], [0.0; MAX_GROUP]);
            let (codes, values) = (&mut codes[..format.group_size], &mut values[..format.group_size]);
            let outputs = out.chunks_exact_mut(format.group_size * width);
            for ((packed, &scale), out) in packed.chunks_exact(group_bytes).zip(scales).zip(outputs) {
                unpack(packed, format.bits, codes);
                let scale = format.dtype.round(format.scale_value(scale));
                for (value, &code) in values.iter_mut().zip(&*codes) {
                    *value = scale * format.code_value(code);
                }
                write(values, out);
            }
        });
    Ok(())
}

/// Writes the rounding error `Q(W) - W` of [`quantize`] then [`dequantize`], including what the cast to `dtype` costs, into
/// `out`, which has as many items as `weights` (float32, rows of `columns`).
pub fn rounding_error_into(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    out: &mut [f32],
) -> Result<()> {
    let format = Format::for_rows(quant, dtype, columns)?;
    whole_rows("weights", weights.len(), columns)?;
    same_length("room for decoded weights", out.len(), weights.len())?;
    let bad = weights
        .par_chunks(BLOCK)
        .zip(out.par_chunks_mut(BLOCK))
        .enumerate()
        .filter_map(|(index, (weights, out))| {
            let failed = run_kernel(format.group_size, ErrorBlock { weights, format, out }).err();
            failed.map(|group| index * format.block_groups() + group)
        })
        .min();
    bad.map_or(Ok(()), |group| Err(format.not_finite(group, columns)))
}

/// Weights to their rounding errors.
struct ErrorBlock<'a> {
    weights: &'a [f32],
    format: Format,
    out: &'a mut [f32],
}

impl Kernel for ErrorBlock<'_> {
    type Output = Result<(), usize>;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn run<const GROUP: usize>(self) -> Result<(), usize> {
        let mut codes = [0; GROUP];
        let outputs = self.out.as_chunks_mut::<GROUP>().0;
        for (i, (group, out)) in self.weights.as_chunks::<GROUP>().0.iter().zip(outputs).enumerate() {
            let mut rounded = *group;
            self.format.dtype.round_all(&mut rounded);
            let scale = self.format.scale(&rounded).ok_or(i)?;
            self.format.encode(&rounded, scale, &mut codes);
            for ((out, weight), &code) in out.iter_mut().zip(group).zip(&codes) {
                *out = scale.value * self.format.code_value(code) - weight;
            }
        }
        Ok(())
    }
}
