//! Scale search over a whole matrix: tiles of sixteen rows, in parallel.

use rayon::prelude::*;

use super::fit::{Rule, choose};
use super::rounded::{Layout, Result, column_weights};
use super::tile::{LANES, load, nearest_grids, row};
use crate::numerics::affine::{FloatType, Grid, Quantized, decode, encode, pack, same_length};
use crate::numerics::quant::Quant;
use crate::numerics::wide::{Kernel, run_kernel};

/// Weights that one rayon task handles, about.
const BLOCK: usize = 1 << 16;

/// Quantizes with the scales and biases that leave the least squared error, that of column `j` counted with
/// `importance[j]`, the mean square of the input that it meets (all the same where `None`). Groups where nothing
/// better was found are bit-exact with [`crate::numerics::affine::quantize`].
pub fn search(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    importance: Option<&[f32]>,
) -> Result<Quantized> {
    let layout = Layout::new(weights, columns, quant, dtype)?;
    let importance = column_weights(importance, columns)?;
    let mut out = layout.room(weights.len() / columns);
    let rows = task_rows(columns);
    let outputs = out
        .packed
        .par_chunks_mut(rows * layout.packed_row())
        .zip(out.scales.par_chunks_mut(rows * layout.scales_row()))
        .zip(out.biases.par_chunks_mut(rows * layout.scales_row()))
        .map(|((packed, scales), biases)| Codes { layout, out: Quantized { packed, scales, biases } });
    run(weights, layout, &importance, outputs)?;
    Ok(out)
}

/// Writes the rounding error `Q(W) - W` of [`search()`], including what the cast to `dtype` costs, into `out`, which has as
/// many items as `weights`.
pub fn search_error_into(
    weights: &[f32],
    columns: usize,
    quant: Quant,
    dtype: FloatType,
    importance: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let layout = Layout::new(weights, columns, quant, dtype)?;
    let importance = column_weights(importance, columns)?;
    same_length("room for rounding errors", out.len(), weights.len())?;
    let outputs = out.par_chunks_mut(task_rows(columns) * columns).map(|error| Errors { columns, error });
    run(weights, layout, &importance, outputs)
}

/// Returns the rows of one task, whole tiles.
fn task_rows(columns: usize) -> usize {
    (BLOCK / columns / LANES).max(1) * LANES
}

/// Destination of rounded groups.
trait Output: Send {
    /// Takes a group: its row and first column, its weights, codes, and the grid as stored.
    fn group(&mut self, row: usize, column: usize, weights: &[f32], codes: &[u8], grid: Grid);
}

/// The bytes of some rows.
struct Codes<'a> {
    layout: Layout,
    out: Quantized<&'a mut [u8]>,
}

impl Output for Codes<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn group(&mut self, row: usize, column: usize, _: &[f32], codes: &[u8], grid: Grid) {
        let Layout { rule: Rule { bits, dtype }, group_size, .. } = self.layout;
        let at = row * self.layout.packed_row() + column * bits as usize / 8;
        let packed = self.out.packed.get_mut(at..at + codes.len() * bits as usize / 8);
        pack(codes, bits, packed.unwrap_or_default());
        let at = row * self.layout.scales_row() + column / group_size * dtype.bytes();
        let floats = at..at + dtype.bytes();
        dtype.narrow(&[grid.scale], self.out.scales.get_mut(floats.clone()).unwrap_or_default());
        dtype.narrow(&[grid.bias], self.out.biases.get_mut(floats).unwrap_or_default());
    }
}

/// Rounding errors of some rows.
struct Errors<'a> {
    columns: usize,
    error: &'a mut [f32],
}

impl Output for Errors<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn group(&mut self, row: usize, column: usize, weights: &[f32], codes: &[u8], grid: Grid) {
        let at = row * self.columns + column;
        let out = self.error.get_mut(at..at + weights.len()).unwrap_or_default();
        decode(codes, grid, out);
        out.iter_mut().zip(weights).for_each(|(error, weight)| *error -= weight);
    }
}

fn run<O: Output>(
    weights: &[f32],
    layout: Layout,
    importance: &[f32],
    outputs: impl IndexedParallelIterator<Item = O>,
) -> Result<()> {
    let rows = task_rows(layout.columns);
    let bad = weights
        .par_chunks(rows * layout.columns)
        .zip(outputs)
        .enumerate()
        .filter_map(|(task, (weights, out))| {
            let rounded = run_kernel(layout.group_size, Task { weights, layout, importance, out });
            rounded.err().map(|(row, column)| (task * rows + row, column))
        })
        .min();
    bad.map_or(Ok(()), |(row, column)| Err(layout.not_finite(row, column)))
}

/// Some tiles of whole rows. The error is row and column of the first group that is not finite.
struct Task<'a, O> {
    weights: &'a [f32],
    layout: Layout,
    importance: &'a [f32],
    out: O,
}

impl<O: Output> Kernel for Task<'_, O> {
    type Output = Result<(), (usize, usize)>;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn run<const GROUP: usize>(mut self) -> Self::Output {
        let Layout { rule, columns, .. } = self.layout;
        let mut codes = [0; GROUP];
        for (tile_index, rows) in self.weights.chunks(LANES * columns).enumerate() {
            let first = tile_index * LANES;
            for (group, importance) in self.importance.as_chunks::<GROUP>().0.iter().enumerate() {
                let start = group * GROUP;
                let mut tile = load::<GROUP>(rows, columns, start);
                for values in &mut tile {
                    rule.dtype.round_all(values);
                }
                let rtn = nearest_grids(&tile, rule.bits).map_err(|lane| (first + lane, start))?;
                let choice = choose(&tile, importance, &rtn, rule);
                for (lane, weights) in rows.chunks_exact(columns).enumerate() {
                    encode(&row(&tile, lane), choice.encode.get(lane), rule.bits, &mut codes);
                    let weights = weights.get(start..start + GROUP).unwrap_or_default();
                    self.out.group(first + lane, start, weights, &codes, choice.stored.get(lane));
                }
            }
        }
        Ok(())
    }
}
