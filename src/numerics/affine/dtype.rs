//! The three float types that weights, scales and biases come in, as little-endian bytes.
//!
//! The conversions are branch-free so that they vectorize inside the quantization loops on any CPU: `half`'s
//! slice conversions call an intrinsic per eight values, its scalar ones test for CPU features per value.
//! They agree with `half` bit for bit (tested), except that every NaN becomes the same one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A float type of MLX, spelled as MLX spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FloatType {
    /// IEEE binary32.
    #[serde(rename = "float32")]
    F32,
    /// IEEE binary16.
    #[serde(rename = "float16")]
    F16,
    /// The upper half of a binary32.
    #[serde(rename = "bfloat16")]
    Bf16,
}

impl FloatType {
    /// Returns MLX's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// Returns the bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Converts bytes of this type to float32. Stops at the shorter of the two.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                let (values, _) = bytes.as_chunks::<4>();
                out.iter_mut().zip(values).for_each(|(o, &v)| *o = f32::from_le_bytes(v));
            }
            Self::F16 => {
                let (values, _) = bytes.as_chunks::<2>();
                out.iter_mut().zip(values).for_each(|(o, &v)| *o = f16_to_f32(u16::from_le_bytes(v)));
            }
            Self::Bf16 => {
                let (values, _) = bytes.as_chunks::<2>();
                out.iter_mut().zip(values).for_each(|(o, &v)| *o = bf16_to_f32(u16::from_le_bytes(v)));
            }
        }
    }

    /// Converts float32 to bytes of this type, rounded to nearest, ties to even. Stops at the shorter of the two.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    pub fn narrow(self, values: &[f32], out: &mut [u8]) {
        match self {
            Self::F32 => {
                let (out, _) = out.as_chunks_mut::<4>();
                out.iter_mut().zip(values).for_each(|(o, &v)| *o = v.to_le_bytes());
            }
            Self::F16 => {
                let (out, _) = out.as_chunks_mut::<2>();
                out.iter_mut().zip(values).for_each(|(o, &v)| *o = f32_to_f16(v).to_le_bytes());
            }
            Self::Bf16 => {
                let (out, _) = out.as_chunks_mut::<2>();
                out.iter_mut().zip(values).for_each(|(o, &v)| *o = f32_to_bf16(v).to_le_bytes());
            }
        }
    }

    /// Rounds `value` as storing it in this type and reading it back does.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16_to_f32(f32_to_f16(value)),
            Self::Bf16 => bf16_to_f32(f32_to_bf16(value)),
        }
    }

    /// Rounds every value in place, as [`FloatType::round`].
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    pub fn round_all(self, values: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::F16 => values.iter_mut().for_each(|v| *v = f16_to_f32(f32_to_f16(*v))),
            Self::Bf16 => values.iter_mut().for_each(|v| *v = bf16_to_f32(f32_to_bf16(*v))),
        }
    }
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Selects without a branch, so that loops vectorize.
#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
const fn select(condition: bool, yes: u32, no: u32) -> u32 {
    let mask = 0_u32.wrapping_sub(condition as u32);
    (yes & mask) | (no & !mask)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
fn f16_to_f32(half: u16) -> f32 {
    let half = u32::from(half);
    let magnitude = (half & 0x7fff) << 13;
    let normal = magnitude + (112 << 23);
    // A subnormal's mantissa becomes a fraction of 2^-14, which is then subtracted.
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let finite = select(half & 0x7c00 == 0, subnormal, normal);
    let bits = select(half & 0x7c00 == 0x7c00, magnitude | 0x7f80_0000, finite);
    f32::from_bits(bits | (half & 0x8000) << 16)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // 0.5 has an ulp of 2^-24, the smallest binary16: the addition rounds to it.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    let finite = select(magnitude < 113 << 23, subnormal, normal);
    // From 65536 on infinity (65520 and above round up to it by themselves), and NaN.
    let overflow = select(magnitude > 0x7f80_0000, 0x7e00, 0x7c00);
    (select(magnitude >= 0x4780_0000, overflow, finite) | (bits >> 16) & 0x8000) as u16
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    select(bits & 0x7fff_ffff > 0x7f80_0000, nan, rounded) as u16
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn widening_agrees_with_half() {
        for bits in 0..=u16::MAX {
            assert!(same(f16_to_f32(bits), f16::from_bits(bits).to_f32()), "{bits:#x}");
            assert!(same(bf16_to_f32(bits), bf16::from_bits(bits).to_f32()), "{bits:#x}");
        }
    }

    #[test]
    fn narrowing_agrees_with_half() {
        // Every exponent and sign, and around every rounding boundary of the mantissa.
        let near = |step: u32| (0..=u32::MAX / step).map(move |i| i * step);
        let values = near(1 << 12).flat_map(|b| [b.wrapping_sub(1), b, b.wrapping_add(1)]).chain(near(9973));
        for value in values.map(f32::from_bits) {
            let (a, b) = (f32_to_f16(value), f16::from_f32(value));
            assert!(a == b.to_bits() || value.is_nan() && f16::from_bits(a).is_nan(), "{value:e}");
            let (a, b) = (f32_to_bf16(value), bf16::from_f32(value));
            assert!(a == b.to_bits() || value.is_nan() && bf16::from_bits(a).is_nan(), "{value:e}");
        }
    }
}
