//! Sixteen rows of one group side by side: `tile[column][row]`, so that every row is a lane of a vector and sums
//! over a group need no shuffles. Lanes never mix, and nothing is fused: results depend neither on threads nor on the
//! width of the vectors.

#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

use crate::numerics::affine::{FloatType, Grid, round_to_nearest_grid};

/// Rows in a tile.
pub(crate) const LANES: usize = 16;
/// One number per row.
pub(crate) type Lanes = [f32; LANES];
/// Adding it rounds a number of `0..2^22` to an integer, ties to even.
const ROUND: f32 = 8_388_608.0;

/// One grid per row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grids {
    pub scale: Lanes,
    pub bias: Lanes,
}

impl Grids {
    pub const ZERO: Self = Self { scale: [0.0; LANES], bias: [0.0; LANES] };

    #[inline(always)]
    pub fn get(&self, lane: usize) -> Grid {
        Grid { scale: self.scale[lane], bias: self.bias[lane] }
    }

    /// Returns each grid as it is read back.
    #[inline(always)]
    pub fn stored(mut self, dtype: FloatType) -> Self {
        dtype.round_all(&mut self.scale);
        dtype.round_all(&mut self.bias);
        self
    }

    /// Returns one over each scale.
    #[inline(always)]
    pub fn inverse(&self) -> Lanes {
        self.scale.map(|scale| 1.0 / scale)
    }

    /// Takes the grids of `other` where `take` is set.
    #[inline(always)]
    pub fn replace(&mut self, take: &[bool; LANES], other: &Self) {
        replace(&mut self.scale, take, &other.scale);
        replace(&mut self.bias, take, &other.bias);
    }
}

/// Takes the values of `other` where `take` is set.
#[inline(always)]
pub(crate) fn replace(values: &mut Lanes, take: &[bool; LANES], other: &Lanes) {
    for lane in 0..LANES {
        values[lane] = if take[lane] { other[lane] } else { values[lane] };
    }
}

/// Returns where `a` is less than `b`; nowhere that one is NaN.
#[inline(always)]
pub(crate) fn less(a: &Lanes, b: &Lanes) -> [bool; LANES] {
    let mut out = [false; LANES];
    for lane in 0..LANES {
        out[lane] = a[lane] < b[lane];
    }
    out
}

/// Returns the code nearest to `value`, as a float; `inverse` is one over the scale. NaN gives 0.
#[inline(always)]
pub(crate) fn nearest_code(value: f32, inverse: f32, bias: f32, highest: f32) -> f32 {
    let steps = (value - bias) * inverse;
    let steps = if steps > 0.0 { steps } else { 0.0 };
    let steps = if steps < highest { steps } else { highest };
    (steps + ROUND) - ROUND
}

/// Returns the grids that `mx.quantize` would choose for the rows of a tile, in float32. The error is the first row that is
/// not finite.
#[inline(always)]
pub(crate) fn nearest_grids<const GROUP: usize>(tile: &[Lanes; GROUP], bits: u32) -> Result<Grids, usize> {
    let mut grids = Grids::ZERO;
    let (low, high, largest) = extremes(tile);
    for lane in 0..LANES {
        // Bits that no finite number has.
        let finite = largest[lane] < f32::INFINITY.to_bits();
        let ends = if finite { [low[lane], high[lane]] } else { [f32::NAN; 2] };
        let grid = round_to_nearest_grid(&ends, bits).ok_or(lane)?;
        grids.scale[lane] = grid.scale;
        grids.bias[lane] = grid.bias;
    }
    Ok(grids)
}

/// Returns minimum and maximum of every row, and the bits of its greatest magnitude, NaN above all.
#[inline(always)]
fn extremes<const GROUP: usize>(tile: &[Lanes; GROUP]) -> (Lanes, Lanes, [u32; LANES]) {
    let (mut low, mut high, mut largest) = (tile[0], tile[0], [0_u32; LANES]);
    for values in tile {
        for lane in 0..LANES {
            let value = values[lane];
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
            largest[lane] = largest[lane].max(value.to_bits() & i32::MAX as u32);
        }
    }
    (low, high, largest)
}

/// Returns one row of a tile.
#[inline(always)]
pub(crate) fn row<const GROUP: usize>(tile: &[Lanes; GROUP], lane: usize) -> [f32; GROUP] {
    let mut row = [0.0; GROUP];
    row.iter_mut().zip(tile).for_each(|(out, column)| *out = column[lane]);
    row
}

/// Loads the group at column `start` of up to [`LANES`] rows; rows that are missing are zero.
#[inline(always)]
pub(crate) fn load<const GROUP: usize>(rows: &[f32], columns: usize, start: usize) -> [Lanes; GROUP] {
    let mut tile = [[0.0; LANES]; GROUP];
    for (lane, row) in rows.chunks_exact(columns).take(LANES).enumerate() {
        let group = row.get(start..start + GROUP).unwrap_or_default();
        tile.iter_mut().zip(group).for_each(|(column, &value)| column[lane] = value);
    }
    tile
}

/// Stores a group, the inverse of [`load`].
#[inline(always)]
pub(crate) fn store<const GROUP: usize>(
    tile: &[Lanes; GROUP],
    rows: &mut [f32],
    columns: usize,
    start: usize,
) {
    for (lane, out) in rows.chunks_exact_mut(columns).take(LANES).enumerate() {
        let group = out.get_mut(start..start + GROUP).unwrap_or_default();
        group.iter_mut().zip(tile).for_each(|(value, column)| *value = column[lane]);
    }
}
