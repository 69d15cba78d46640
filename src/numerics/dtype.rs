//! Element types and the casts between them.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;

use crate::error::{Error, Result};
use crate::numerics::affine::FloatType;
use crate::numerics::microscaling::{E4M3, from_e8m0};

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// 8 bits of which 4 are the exponent, without infinities: codes of other tools' layers.
    F8E4M3,
    /// A power of two: scales of other tools' layers.
    F8E8M0,
}

impl Dtype {
    /// Returns the bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool | Self::F8E4M3 | Self::F8E8M0 => 1,
        }
    }

    /// True if values are floating-point numbers that stand for themselves. Numbers of 8 bits do not: they need scales.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Returns the name in a safetensors header.
    pub fn safetensors(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
        }
    }

    /// Reads the name in a safetensors header.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        use Dtype as D;
        [
            D::F64,
            D::F32,
            D::F16,
            D::BF16,
            D::I64,
            D::I32,
            D::I16,
            D::I8,
            D::U64,
            D::U32,
            D::U16,
            D::U8,
            D::Bool,
            D::F8E4M3,
            D::F8E8M0,
        ]
        .into_iter()
        .find(|dtype| dtype.safetensors() == name)
    }

    /// Reads the name that PyTorch, MLX and configs use (`float16`, `torch.bfloat16`).
    pub fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float64" => Some(Self::F64),
            "float32" | "float" => Some(Self::F32),
            "float16" | "half" => Some(Self::F16),
            "bfloat16" => Some(Self::BF16),
            _ => None,
        }
    }
}

impl From<FloatType> for Dtype {
    fn from(float: FloatType) -> Self {
        match float {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::Bf16 => Self::BF16,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U64 => "uint64",
            Self::U32 => "uint32",
            Self::U16 => "uint16",
            Self::U8 => "uint8",
            Self::Bool => "bool",
            Self::F8E4M3 => "float8_e4m3",
            Self::F8E8M0 => "float8_e8m0",
        })
    }
}

/// Irregular values that a cast met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CastReport {
    /// Values that were NaN or infinite before.
    pub non_finite: u64,
    /// A finite value became infinite.
    pub overflow: bool,
}

impl CastReport {
    /// Adds what another part of the tensor met.
    pub fn merge(&mut self, other: Self) {
        self.non_finite += other.non_finite;
        self.overflow |= other.overflow;
    }
}

/// Values per block; a block's buffers stay in the first cache level.
const BLOCK: usize = 2048;

/// Casts little-endian `source` of dtype `from` to little-endian `to`, appended to `out`, rounding to nearest even
/// (once, also from float64). `to` is a float dtype, or equal to `from`, which copies.
pub fn cast(from: Dtype, source: &[u8], to: Dtype, out: &mut Vec<u8>) -> CastReport {
    let mut report = CastReport::default();
    if from == to && !from.is_float() {
        out.extend_from_slice(source);
        return report;
    }
    out.reserve(source.len() / from.size() * to.size());
    let mut wide = Vec::with_capacity(BLOCK);
    for block in source.chunks(BLOCK * from.size()) {
        if from == Dtype::F64 && to != Dtype::F32 {
            cast_f64(block, to, out, &mut report);
            continue;
        }
        if (from, to) == (Dtype::F32, Dtype::F16) && narrow_in_place(block, out, &mut report) {
            continue;
        }
        wide.clear();
        extend_f32(from, block, &mut wide);
        let (largest, non_finite) = scan(&wide);
        report.non_finite += non_finite;
        if from == Dtype::F64 {
            // A float64 beyond float32's range has become infinite just now.
            let infinite_before =
                block.as_chunks::<8>().0.iter().filter(|b| !f64::from_le_bytes(**b).is_finite());
            let before = infinite_before.count() as u64;
            report.overflow |= non_finite > before;
            report.non_finite = report.non_finite - non_finite + before;
        }
        if from == to {
            out.extend_from_slice(block);
            continue;
        }
        report.overflow |= largest >= overflow_threshold(to);
        push_f32(&wide, to, out);
    }
    report
}

/// Casts float32 to float16, the usual conversion, straight from aligned memory into `out`; `false` where it is not aligned.
/// Only a block that has an infinity or NaN afterwards is looked at for why.
fn narrow_in_place(block: &[u8], out: &mut Vec<u8>, report: &mut CastReport) -> bool {
    let Ok(values) = bytemuck::try_cast_slice::<u8, f32>(block) else { return false };
    let start = out.len();
    out.resize(start + values.len() * 2, 0);
    let Ok(halves) = bytemuck::try_cast_slice_mut::<u8, f16>(&mut out[start..]) else {
        out.truncate(start);
        return false;
    };
    halves.convert_from_f32_slice(values);
    let special = halves.iter().map(|h| u32::from(h.to_bits() & 0x7c00 == 0x7c00)).sum::<u32>();
    if special > 0 {
        let (largest, non_finite) = scan(values);
        report.non_finite += non_finite;
        report.overflow |= largest >= overflow_threshold(Dtype::F16);
    }
    true
}

/// Returns the least float32 that rounds to infinity in `to`.
fn overflow_threshold(to: Dtype) -> f32 {
    match to {
        Dtype::F16 => 65520.0,
        Dtype::BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// Returns the largest finite magnitude and the number of non-finite values.
fn scan(values: &[f32]) -> (f32, u64) {
    let mut largest = 0u32;
    let mut non_finite = 0u32;
    for value in values {
        let bits = value.to_bits() & 0x7fff_ffff;
        let finite = bits < 0x7f80_0000;
        largest = largest.max(if finite { bits } else { 0 });
        non_finite += u32::from(!finite);
    }
    (f32::from_bits(largest), u64::from(non_finite))
}

/// Appends `source` as float32 (exact for every dtype of 32 bits or less but int32 and uint32).
pub fn extend_f32(from: Dtype, source: &[u8], out: &mut Vec<f32>) {
    let start = out.len();
    out.resize(start + source.len() / from.size(), 0.0);
    widen_into(from, source, &mut out[start..]);
}

/// Writes [`extend_f32`] into as many values as there are. Stops at the shorter of the two.
pub fn widen_into(from: Dtype, source: &[u8], out: &mut [f32]) {
    fn each<const N: usize>(source: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
        out.iter_mut().zip(source.as_chunks().0).for_each(|(out, bytes)| *out = value(*bytes));
    }
    match from {
        Dtype::F32 => each(source, out, f32::from_le_bytes),
        Dtype::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for (source, out) in source.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
                let halves = &mut halves[..out.len().min(source.len() / 2)];
                halves.iter_mut().zip(source.as_chunks().0).for_each(|(h, b)| *h = f16::from_le_bytes(*b));
                halves.convert_to_f32_slice(&mut out[..halves.len()]);
            }
        }
        Dtype::BF16 => each(source, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::F64 => each(source, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::I64 => each(source, out, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => each(source, out, |b| i32::from_le_bytes(b) as f32),
        Dtype::I16 => each(source, out, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::I8 => each(source, out, |[b]| f32::from(b.cast_signed())),
        Dtype::U64 => each(source, out, |b| u64::from_le_bytes(b) as f32),
        Dtype::U32 => each(source, out, |b| u32::from_le_bytes(b) as f32),
        Dtype::U16 => each(source, out, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::U8 | Dtype::Bool => each(source, out, |[b]| f32::from(b)),
        Dtype::F8E4M3 => each(source, out, |[b]| E4M3[usize::from(b)]),
        // 255 is NaN by the OCP's definition.
        Dtype::F8E8M0 => each(source, out, |[b]| if b == u8::MAX { f32::NAN } else { from_e8m0(b) }),
    }
}

/// Appends `values` as `to`, a float dtype, rounding to nearest even.
pub fn push_f32(values: &[f32], to: Dtype, out: &mut Vec<u8>) {
    match to {
        Dtype::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for block in values.chunks(BLOCK) {
                let halves = &mut halves[..block.len()];
                halves.convert_from_f32_slice(block);
                push_words(halves.iter().map(|h| h.to_bits()), out);
            }
        }
        Dtype::BF16 => push_words(values.iter().map(|&x| bf16_bits(x)), out),
        Dtype::F64 => out.extend(values.iter().flat_map(|&x| f64::from(x).to_le_bytes())),
        _ => {
            debug_assert_eq!(to, Dtype::F32);
            let start = out.len();
            out.resize(start + values.len() * 4, 0);
            for (bytes, x) in out[start..].as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = x.to_le_bytes();
            }
        }
    }
}

fn push_words(words: impl ExactSizeIterator<Item = u16>, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + words.len() * 2, 0);
    for (bytes, word) in out[start..].as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

/// Rounds without branches, so that the loop over it vectorizes; equal to `bf16::from_f32`.
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let nan = (bits >> 16) as u16 | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }
}

/// Returns the float32 that keeps what rounding once more needs to know: toward zero, the last bit set where anything was
/// lost (Boldo and Melquiond, 2008). Rounding to nearest instead would round twice.
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let exact = f64::from(nearest).to_bits() == x.to_bits();
    if exact || !x.is_finite() {
        return nearest;
    }
    let bits = nearest.to_bits();
    let away = f64::from(nearest).abs() > x.abs();
    f32::from_bits(if away { bits - 1 } else { bits } | 1)
}

fn cast_f64(block: &[u8], to: Dtype, out: &mut Vec<u8>, report: &mut CastReport) {
    for bytes in block.as_chunks().0 {
        let x = f64::from_le_bytes(*bytes);
        let odd = round_to_odd(x);
        let (bits, finite) = match to {
            Dtype::F16 => (f16::from_f32(odd).to_bits(), f16::from_f32(odd).is_finite()),
            Dtype::BF16 => (bf16::from_f32(odd).to_bits(), bf16::from_f32(odd).is_finite()),
            _ => {
                out.extend_from_slice(bytes);
                report.non_finite += u64::from(!x.is_finite());
                continue;
            }
        };
        report.non_finite += u64::from(!x.is_finite());
        report.overflow |= x.is_finite() && !finite;
        out.extend_from_slice(&bits.to_le_bytes());
    }
}

/// Returns the dtype of scales and biases.
pub fn float_type(dtype: Dtype) -> Result<FloatType> {
    match dtype {
        Dtype::F32 => Ok(FloatType::F32),
        Dtype::F16 => Ok(FloatType::F16),
        Dtype::BF16 => Ok(FloatType::Bf16),
        other => {
            Err(Error::usage(format!("MLX has no scales in {other}"))
                .hint("use float16, bfloat16 or float32"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(from: Dtype, source: &[u8], to: Dtype) -> (Vec<u8>, CastReport) {
        let mut out = Vec::new();
        let report = cast(from, source, to, &mut out);
        (out, report)
    }

    proptest! {
        #[test]
        fn f32_casts_are_the_references(bits in proptest::collection::vec(any::<u32>(), 0..5000)) {
            let source: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            let expected16: Vec<f16> = bits.iter().map(|&b| f16::from_f32(f32::from_bits(b))).collect();
            let (out, report) = one(Dtype::F32, &source, Dtype::F16);
            for (bytes, e) in out.chunks(2).zip(&expected16) {
                let got = f16::from_le_bytes([bytes[0], bytes[1]]);
                prop_assert!(got == *e || (got.is_nan() && e.is_nan()));
            }
            let overflow = bits.iter().zip(&expected16).any(|(&b, e)| f32::from_bits(b).is_finite() && e.is_infinite());
            prop_assert_eq!(report.overflow, overflow);
            let non_finite = bits.iter().filter(|&&b| !f32::from_bits(b).is_finite()).count() as u64;
            prop_assert_eq!(report.non_finite, non_finite);
            let (out, _) = one(Dtype::F32, &source, Dtype::BF16);
            for (bytes, &b) in out.chunks(2).zip(&bits) {
                let (got, e) = (bf16::from_le_bytes([bytes[0], bytes[1]]), bf16::from_f32(f32::from_bits(b)));
                prop_assert!(got == e || (got.is_nan() && e.is_nan()));
            }
        }

        #[test]
        fn f64_rounds_once(base in any::<u16>(), near in -2i64..=2, which in any::<bool>()) {
            // Halfway between neighbours and a hair to either side, where rounding twice goes wrong.
            let value = |bits: u16| if which { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() };
            let (low, high) = (value(base & 0x7fff), value((base & 0x7fff) + 1));
            prop_assume!(low.is_finite() && high.is_finite());
            let middle = f64::midpoint(low, high);
            let x = f64::from_bits(middle.to_bits().wrapping_add_signed(near));
            let to = if which { Dtype::F16 } else { Dtype::BF16 };
            let (out, _) = one(Dtype::F64, &x.to_le_bytes(), to);
            let even = (base & 0x7fff) + (base & 1);
            let expected = match near.cmp(&0) {
                std::cmp::Ordering::Less => base & 0x7fff,
                std::cmp::Ordering::Greater => (base & 0x7fff) + 1,
                std::cmp::Ordering::Equal => even,
            };
            prop_assert_eq!(u16::from_le_bytes([out[0], out[1]]), expected);
        }
    }

    #[test]
    fn f64_beyond_f32_overflows() {
        let (_, report) = one(Dtype::F64, &1e300f64.to_le_bytes(), Dtype::F32);
        assert!(report.overflow && report.non_finite == 0);
        let (_, report) = one(Dtype::F64, &f64::NAN.to_le_bytes(), Dtype::F32);
        assert!(!report.overflow && report.non_finite == 1);
    }

    #[test]
    fn halves_and_integers_widen_exactly() {
        let (out, _) = one(Dtype::F16, &f16::from_f32(-1.5).to_le_bytes(), Dtype::F32);
        assert_eq!(out, (-1.5f32).to_le_bytes());
        let (out, _) = one(Dtype::I8, &[0xff], Dtype::F32);
        assert_eq!(out, (-1f32).to_le_bytes());
        let (out, _) = one(Dtype::U32, &[1, 2, 3, 4], Dtype::U32);
        assert_eq!(out, [1, 2, 3, 4]);
    }
}
