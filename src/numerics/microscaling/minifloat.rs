//! The small floats that codes and scales are: E2M1 (OCP FP4), E4M3 (OCP FP8) and E8M0 (a power of two).
//!
//! Rounding is that of MLX 0.32's CPU implementation, which differs from its Metal kernels in two details: a value in the
//! middle of two E2M1 codes goes to the smaller one, and nothing becomes E2M1's negative zero.

/// The largest E2M1 magnitude.
pub(crate) const E2M1_MAX: f32 = 6.0;
/// The largest E4M3 magnitude.
pub(crate) const E4M3_MAX: f32 = 448.0;
/// Bias of an E8M0 exponent.
const E8M0_BIAS: i32 = 127;
/// Differences of magnitudes up to here and E2M1's are far from falling together in float32.
const E2M1_DISTINCT: f32 = 16.0;

/// Values of the codes of E2M1.
pub(crate) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Values of the codes of E4M3.
pub(crate) const E4M3: [f32; 256] = e4m3_table();

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = ((code >> 3) & 15, code & 7);
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa as f32 / 512.0,
            _ => f32::from_bits(((exponent as u32 + 120) << 23) | ((mantissa as u32) << 20)),
        };
        table[code] = if code < 128 { magnitude } else { -magnitude };
        code += 1;
    }
    table
}

/// Returns `2^(code - 127)`; code 0 is the subnormal 2^-127, code 255 (which is NaN to OCP) infinity, as in MLX.
pub(crate) fn from_e8m0(code: u8) -> f32 {
    f32::from_bits(if code == 0 { 1 << 22 } else { u32::from(code) << 23 })
}

/// Returns the least power of two that is not below `value`, a finite positive number, as a code. Below 2^-127, where MLX's
/// CPU implementation wraps around to enormous scales, this is 2^-127, as on Metal.
pub(crate) fn to_e8m0_up(value: f32) -> u8 {
    let bits = value.to_bits();
    let (exponent, mantissa) = ((bits >> 23) as i32, bits & 0x007f_ffff);
    let code = match exponent {
        0 => i32::from(mantissa > 1 << 22),
        _ => exponent - 127 + E8M0_BIAS + i32::from(mantissa != 0),
    };
    code as u8
}

/// Returns the nearest E4M3, ties to even, saturating. `value` is no NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub(crate) fn to_e4m3(value: f32) -> u8 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // 2^14 has an ulp of 2^-9, the smallest E4M3: the addition rounds to it.
    let subnormal = (f32::from_bits(magnitude) + 16384.0).to_bits().wrapping_sub(16384_f32.to_bits());
    let normal = magnitude.wrapping_sub(120 << 23).wrapping_add(0x0007_ffff + ((magnitude >> 20) & 1)) >> 20;
    let code = if magnitude < 121 << 23 { subnormal } else { normal };
    let code = if magnitude >= E4M3_MAX.to_bits() { 0x7e } else { code };
    (code | (bits >> 24) & 0x80) as u8
}

/// Returns the nearest E2M1, ties towards zero, saturating. `value` is no NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub(crate) fn to_e2m1(value: f32) -> u8 {
    let magnitude = value.abs();
    let mut code = 0;
    for middle in [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0] {
        code += u8::from(magnitude > middle);
    }
    code | u8::from(value < 0.0 && code > 0) << 3
}

/// Rounds to E2M1 as MLX does it far beyond the range, where the differences it takes in float32 fall together and the first
/// of the smallest wins: a code may come out small, even 0.
pub(crate) fn to_e2m1_saturated(value: f32) -> u8 {
    if value.abs() <= E2M1_DISTINCT {
        return to_e2m1(value);
    }
    let mut best = (f32::INFINITY, 0);
    for (code, &magnitude) in (0..).zip(&E2M1) {
        let distance = (value - magnitude).abs();
        if distance < best.0 {
            best = (distance, code);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the first code of the smallest distance, or the even one of two.
    fn nearest(table: &[f32], value: f32, even: bool) -> usize {
        let distance = |code: usize| (f64::from(table[code]) - f64::from(value)).abs();
        let usable = |code: &usize| !table[*code].is_nan();
        let best = (0..table.len()).filter(usable).map(distance).fold(f64::INFINITY, f64::min);
        let mut tied =
            (0..table.len()).filter(usable).filter(|&code| distance(code).to_bits() == best.to_bits());
        let first = tied.next().unwrap();
        if even { tied.chain([first]).find(|code| code % 2 == 0).unwrap_or(first) } else { first }
    }

    #[test]
    fn e2m1_is_the_nearest() {
        for step in -1000..=1000 {
            let value = step as f32 / 64.0;
            assert_eq!(usize::from(to_e2m1(value)), nearest(&E2M1, value, false), "{value}");
        }
    }

    #[test]
    fn e4m3_is_the_nearest_and_reads_back() {
        for code in 0..=255_u8 {
            let value = E4M3[usize::from(code)];
            assert!(value.is_nan() || to_e4m3(value) == code, "{code:#x}");
        }
        for step in 0..4000 {
            let value = (step as f32 / 128.0 - 16.0).exp2() * 1.003 + (step % 7) as f32 / 1024.0;
            for value in [value, value.min(500.0).round(), (step as f32 + 0.5) / 1024.0] {
                assert_eq!(usize::from(to_e4m3(value)), nearest(&E4M3[..128], value, true), "{value}");
                assert_eq!(to_e4m3(-value), to_e4m3(value) | 0x80);
            }
        }
    }

    #[test]
    fn e8m0_rounds_up() {
        for code in 0..=254 {
            let power = from_e8m0(code);
            assert_eq!(to_e8m0_up(power), code);
            assert_eq!(to_e8m0_up(f32::from_bits(power.to_bits() + 1)), code + 1);
        }
        assert_eq!(to_e8m0_up(f32::from_bits(1)), 0);
    }
}
