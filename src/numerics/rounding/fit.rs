//! The scale and bias of a group that leave the least weighted squared error.
//!
//! Codes are nearest on the grid *as stored*, and the error is measured with it. Starting from ranges that are cut by
//! parts of a step at either end, the best is refitted a few times: for given codes the best scale and bias are a
//! weighted least-squares line. Which starts pay was found greedily on trained and random weights: in units of steps
//! they hardly depend on the bit-width, and cuts at one end only matter as much as those at both.

#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

use super::tile::{Grids, LANES, Lanes, less, nearest_code, replace};
use crate::numerics::affine::FloatType;

/// Rounds of refitting after the best start.
pub(crate) const REFITS: usize = 4;
/// Share by which a grid must be better than rtn's: more than sums in float32 can be mistaken.
pub(crate) const MARGIN: f32 = 1.0 - 1.0 / 16_384.0;

/// Steps cut from the lower and upper end of the range.
type Start = (f32, f32);

const STARTS_2: [Start; 9] = [
    (0.5, 0.5),
    (0.75, 0.3),
    (0.3, 0.75),
    (0.3, 0.5),
    (0.5, 0.3),
    (0.75, 0.5),
    (0.5, 0.75),
    (0.15, 0.15),
    (0.8, 0.8),
];
const STARTS_3: [Start; 9] = [
    (0.5, 0.5),
    (0.15, 0.75),
    (0.75, 0.15),
    (0.3, 0.3),
    (0.0, 0.5),
    (0.5, 0.0),
    (0.75, 0.5),
    (0.5, 0.75),
    (1.2, 1.2),
];
const STARTS: [Start; 9] = [
    (0.25, 0.25),
    (0.0, 0.5),
    (0.5, 0.0),
    (0.0, 0.75),
    (0.75, 0.0),
    (0.5, 0.3),
    (0.3, 0.5),
    (0.0, 0.2),
    (0.2, 0.0),
];

/// Type and bits that the search is measured by and may choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub bits: u32,
    pub dtype: FloatType,
}

impl Rule {
    #[inline(always)]
    pub fn highest(self) -> f32 {
        ((1_u32 << self.bits) - 1) as f32
    }

    #[inline(always)]
    pub fn starts(self) -> &'static [Start] {
        match self.bits {
            2 => &STARTS_2,
            3 => &STARTS_3,
            _ => &STARTS,
        }
    }
}

/// Returns minimum and maximum of every row.
#[inline(always)]
pub(crate) fn ranges<const GROUP: usize>(tile: &[Lanes; GROUP]) -> (Lanes, Lanes) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for values in tile {
        let (lower, higher) = (less(values, &low), less(&high, values));
        replace(&mut low, &lower, values);
        replace(&mut high, &higher, values);
    }
    (low, high)
}

/// Returns the grid over a range that is cut at both ends.
#[inline(always)]
pub(crate) fn cut((low, high): &(Lanes, Lanes), start: Start, rule: Rule) -> Grids {
    let mut grids = Grids::ZERO;
    for lane in 0..LANES {
        let step = (high[lane] - low[lane]) / rule.highest();
        grids.scale[lane] = step * ((rule.highest() - start.0 - start.1) / rule.highest());
        grids.bias[lane] = low[lane] + start.0 * step;
    }
    grids.stored(rule.dtype)
}

/// Weighted sums of codes `q` and what they leave, `e`, from which the next grid follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub qq: Lanes,
    pub q1: Lanes,
    pub qe: Lanes,
    pub e1: Lanes,
}

impl Moments {
    pub const ZERO: Self = Self { qq: [0.0; LANES], q1: [0.0; LANES], qe: [0.0; LANES], e1: [0.0; LANES] };

    /// Returns the least-squares grid for the codes, `total` being the sum of weights: the scale is rounded to its
    /// type first and the bias then suits the rounded scale.
    #[inline(always)]
    pub fn refit(&self, grids: &Grids, total: f32, dtype: FloatType) -> Grids {
        let mut next = Grids::ZERO;
        for lane in 0..LANES {
            let determinant = self.qq[lane] * total - self.q1[lane] * self.q1[lane];
            let step = (self.qe[lane] * total - self.e1[lane] * self.q1[lane]) / determinant;
            next.scale[lane] = dtype.round(grids.scale[lane] + step);
            let moved = next.scale[lane] - grids.scale[lane];
            next.bias[lane] = dtype.round(grids.bias[lane] + (self.e1[lane] - moved * self.q1[lane]) / total);
        }
        next
    }
}

/// Returns the weighted squared error of nearest codes on `grids`, of one in `every` weights.
#[inline(always)]
pub(crate) fn error<const GROUP: usize>(
    tile: &[Lanes; GROUP],
    weights: &[f32; GROUP],
    grids: &Grids,
    highest: f32,
    every: usize,
) -> Lanes {
    let inverse = grids.inverse();
    let mut error = [0.0; LANES];
    for (values, &h) in tile.iter().zip(weights).step_by(every) {
        for lane in 0..LANES {
            let q = nearest_code(values[lane], inverse[lane], grids.bias[lane], highest);
            let e = values[lane] - (grids.scale[lane] * q + grids.bias[lane]);
            error[lane] += h * (e * e);
        }
    }
    error
}

/// Returns [`error`] with the sums for a refit.
#[inline(always)]
fn error_and_moments<const GROUP: usize>(
    tile: &[Lanes; GROUP],
    weights: &[f32; GROUP],
    grids: &Grids,
    highest: f32,
) -> (Lanes, Moments) {
    let inverse = grids.inverse();
    let (mut error, mut sums) = ([0.0; LANES], Moments::ZERO);
    for (values, &h) in tile.iter().zip(weights) {
        for lane in 0..LANES {
            let q = nearest_code(values[lane], inverse[lane], grids.bias[lane], highest);
            let e = values[lane] - (grids.scale[lane] * q + grids.bias[lane]);
            error[lane] += h * (e * e);
            sums.qq[lane] += h * (q * q);
            sums.q1[lane] += h * q;
            sums.qe[lane] += h * (e * q);
            sums.e1[lane] += h * e;
        }
    }
    (error, sums)
}

/// Returns the error of rtn: codes from the float32 grid, values from the stored one.
#[inline(always)]
fn error_of_rtn<const GROUP: usize>(
    tile: &[Lanes; GROUP],
    weights: &[f32; GROUP],
    grids: &Grids,
    stored: &Grids,
    highest: f32,
) -> Lanes {
    let mut error = [0.0; LANES];
    for (values, &h) in tile.iter().zip(weights) {
        for lane in 0..LANES {
            let steps = (values[lane] - grids.bias[lane]) / grids.scale[lane];
            let q = nearest_code(steps, 1.0, 0.0, highest);
            let e = values[lane] - (stored.scale[lane] * q + stored.bias[lane]);
            error[lane] += h * (e * e);
        }
    }
    error
}

/// Grids as stored, and grids that codes are taken from, which are equal, except where rtn was not to be beaten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub encode: Grids,
    pub stored: Grids,
}

/// Returns the best grid for every row of a tile. `rtn` is what `mx.quantize` chooses, in float32.
#[inline(always)]
pub(crate) fn choose<const GROUP: usize>(
    tile: &[Lanes; GROUP],
    weights: &[f32; GROUP],
    rtn: &Grids,
    rule: Rule,
) -> Choice {
    let highest = rule.highest();
    let stored = rtn.stored(rule.dtype);
    let limit = error_of_rtn(tile, weights, rtn, &stored, highest).map(|e| e * MARGIN);
    let range = ranges(tile);
    let (mut best, mut least) = (Grids::ZERO, [f32::INFINITY; LANES]);
    for &start in rule.starts() {
        let grids = cut(&range, start, rule);
        let error = error(tile, weights, &grids, highest, 1);
        let take = less(&error, &least);
        best.replace(&take, &grids);
        replace(&mut least, &take, &error);
    }
    let total: f32 = weights.iter().sum();
    let (_, mut sums) = error_and_moments(tile, weights, &best, highest);
    let mut grids = best;
    for round in 1..=REFITS {
        grids = sums.refit(&grids, total, rule.dtype);
        let error;
        (error, sums) = if round < REFITS {
            error_and_moments(tile, weights, &grids, highest)
        } else {
            (self::error(tile, weights, &grids, highest, 1), sums)
        };
        let take = less(&error, &least);
        best.replace(&take, &grids);
        replace(&mut least, &take, &error);
    }
    let mut choice = Choice { encode: *rtn, stored };
    let take = less(&least, &limit);
    choice.encode.replace(&take, &best);
    choice.stored.replace(&take, &best);
    choice
}
