//! One group at a time: the grid, the codes, and the way back.
//!
//! This is `mlx/backend/cpu/quantized.cpp` of MLX 0.32, operation for operation. All of it happens in float32;
//! codes come from the float32 scale, which only then is rounded to the type it is stored in.

/// The least scale, from MLX.
const MIN_SCALE: f32 = 1e-7;
/// Adding it rounds a number of `0..2^22` to an integer, ties to even, and leaves that in the low bits.
const ROUND: f32 = 8_388_608.0;

/// Grid of a group: a code stands for `scale * code + bias`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Distance of two neighbouring codes. Negative where the edge that is kept exact is the maximum.
    pub scale: f32,
    /// The value of code 0.
    pub bias: f32,
}

/// Returns the highest code, `2^bits - 1`.
#[inline]
pub(crate) fn highest_code(bits: u32) -> f32 {
    ((1_u32 << bits) - 1) as f32
}

/// Returns the grid that `mx.quantize` gives to a group, in float32. The extreme of greater magnitude gets code 0 and
/// is kept exact, and the scale is stretched so that zero falls on a code too. `None` where a weight is not
/// finite or the range overflows.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub fn round_to_nearest_grid(group: &[f32], bits: u32) -> Option<Grid> {
    let (min, max) = extremes(group)?;
    let from_min = min.abs() > max.abs();
    let width = (max - min) / highest_code(bits);
    let scale = if width > MIN_SCALE { width } else { MIN_SCALE };
    let scale = if from_min { scale } else { -scale };
    let edge = if from_min { min } else { max };
    let edge_steps = round_ties_even(edge / scale);
    let grid = if edge_steps == 0.0 {
        Grid { scale, bias: 0.0 }
    } else {
        Grid { scale: edge / edge_steps, bias: edge }
    };
    width.is_finite().then_some(grid)
}

/// Returns minimum and maximum; `None` where the group holds a value that is not finite, or nothing.
#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
fn extremes(group: &[f32]) -> Option<(f32, f32)> {
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for value in group {
        let key = ordered(value.to_bits() as i32);
        low = low.min(key);
        high = high.max(key);
    }
    let min = f32::from_bits(ordered(low) as u32);
    let max = f32::from_bits(ordered(high) as u32);
    (min.is_finite() && max.is_finite() && !group.is_empty()).then_some((min, max))
}

/// Maps the bits of a float32 to an integer of the same order, with NaNs beyond the infinities, and back.
/// Unlike minima of floats, those of integers vectorize, and they do not lose a NaN.
#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
const fn ordered(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

/// Rounds as `f32::round_ties_even`, which is a library call on x86-64 without SSE4.1.
#[inline]
fn round_ties_even(value: f32) -> f32 {
    let magnitude = value.abs();
    if magnitude < ROUND { ((magnitude + ROUND) - ROUND).copysign(value) } else { value }
}

/// Returns the code nearest to `value`, as float32 plus [`ROUND`].
#[inline(always)]
#[allow(clippy::inline_always, reason = "inner loops")]
fn nearest(value: f32, grid: Grid, highest: f32) -> f32 {
    let steps = (value - grid.bias) / grid.scale;
    // Clamping first gives the same, and keeps the sum in the range where it rounds to integers.
    let steps = if steps > 0.0 { steps } else { 0.0 };
    let steps = if steps < highest { steps } else { highest };
    steps + ROUND
}

/// Writes the codes nearest to the weights of a group on `grid`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub fn encode(group: &[f32], grid: Grid, bits: u32, codes: &mut [u8]) {
    let highest = highest_code(bits);
    for (code, &value) in codes.iter_mut().zip(group) {
        *code = nearest(value, grid, highest).to_bits() as u8;
    }
}

/// Decodes `scale * code + bias` in float32, with two roundings.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub fn decode(codes: &[u8], grid: Grid, out: &mut [f32]) {
    for (value, &code) in out.iter_mut().zip(codes) {
        *value = grid.scale * f32::from(code) + grid.bias;
    }
}

/// Encodes on `grid` and decodes on `stored`, which is `grid` as it is read back, without the codes.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
pub(crate) fn snap(group: &mut [f32], grid: Grid, stored: Grid, bits: u32) {
    let highest = highest_code(bits);
    for value in group {
        *value = stored.scale * (nearest(*value, grid, highest) - ROUND) + stored.bias;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_ties_even() {
        let values = [0.0, 0.5, 1.5, 2.5, 0.499_999_97, 8_388_607.5, 8_388_608.0, 1e30, f32::INFINITY];
        for value in values.into_iter().flat_map(|v: f32| [v, -v]) {
            assert_eq!(round_ties_even(value).to_bits(), value.round_ties_even().to_bits(), "{value}");
        }
    }

    #[test]
    fn unusable_groups() {
        let with = |value: f32| {
            let mut group = [0.25; 32];
            group[13] = value;
            round_to_nearest_grid(&group, 4)
        };
        assert!(with(1.0).is_some());
        assert_eq!(with(f32::NAN), None);
        assert_eq!(with(f32::INFINITY), None);
        assert_eq!(with(f32::NEG_INFINITY), None);
        assert_eq!(round_to_nearest_grid(&[], 4), None);
        let mut wide = [f32::MAX; 32];
        wide[0] = f32::MIN;
        assert_eq!(round_to_nearest_grid(&wide, 4), None);
    }
}
