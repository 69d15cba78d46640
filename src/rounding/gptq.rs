//! GPTQ (arXiv:2210.17323): error feedback between columns, with the group parameters chosen under it.

use rayon::prelude::*;

use super::fit::Rule;
use super::group::Triangle;
use super::linalg::Hessian;
use super::search::search;
use super::tile::{Kernel, LANES, Lanes, load, row, store, with_wide_vectors};
use super::{Layout, Result, RoundingError};
use crate::affine::{self, FloatType, Grid, QuantizeError, Quantized, pack};
use crate::candidate::Quant;

/// Rows of a task: whole tiles, and enough for the matrix products.
const ROWS: usize = 128;

/// The loss `(W - Q) H (W - Q)^T`, mean over rows, of each way to round: the mean square of the error in an output.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    /// Round to nearest.
    pub rtn: f64,
    /// Scale search with the Hessian's diagonal.
    pub search: f64,
    /// What is returned.
    pub gptq: f64,
}

/// What [`gptq()`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Gptq {
    /// The quantized weight.
    pub quantized: Quantized,
    /// What it loses, and what else would.
    pub losses: Losses,
    /// Rows where error feedback was no better than scale search, which they hold instead.
    pub searched_rows: usize,
}

/// Quantizes so that the layer's outputs change least: minimises `(w - q) H (w - q)^T` for every row.
pub fn gptq(weights: &[f32], quant: Quant, dtype: FloatType, hessian: &Hessian<'_>) -> Result<Gptq> {
    let columns = hessian.columns();
    let layout = Layout::new(weights, columns, quant, dtype)?;
    let importance = hessian.diagonal();
    let rows = weights.len() / columns;
    let mut quantized = layout.room(rows);
    let tasks: Vec<Result<Vec<RowLosses>>> = weights
        .par_chunks(ROWS * columns)
        .zip(quantized.packed.par_chunks_mut(ROWS * layout.packed_row()))
        .zip(quantized.scales.par_chunks_mut(ROWS * layout.scales_row()))
        .zip(quantized.biases.par_chunks_mut(ROWS * layout.scales_row()))
        .map(|(((weights, packed), scales), biases)| {
            let task = Task { weights, quant, layout, hessian, importance: &importance };
            task.round(Quantized { packed, scales, biases })
        })
        .collect();
    let mut losses = Losses::default();
    let mut searched_rows = 0;
    for (index, task) in tasks.into_iter().enumerate() {
        for row in task.map_err(|error| below(error, index * ROWS))? {
            losses.rtn += row.rtn / rows as f64;
            losses.search += row.search / rows as f64;
            losses.gptq += row.gptq.min(row.search) / rows as f64;
            searched_rows += usize::from(!row.fed_back());
        }
    }
    Ok(Gptq { quantized, losses, searched_rows })
}

/// The error with rows counted from the matrix' start.
fn below(error: RoundingError, rows: usize) -> RoundingError {
    match error {
        RoundingError::Affine(QuantizeError::NotFinite { row, column, group_size, dtype }) => {
            QuantizeError::NotFinite { row: row + rows, column, group_size, dtype }.into()
        }
        other => other,
    }
}

struct RowLosses {
    rtn: f64,
    search: f64,
    gptq: f64,
}

impl RowLosses {
    fn fed_back(&self) -> bool {
        self.gptq < self.search
    }
}

/// Some rows of the matrix.
struct Task<'a> {
    weights: &'a [f32],
    quant: Quant,
    layout: Layout,
    hessian: &'a Hessian<'a>,
    importance: &'a [f32],
}

impl Task<'_> {
    fn round(&self, mut out: Quantized<&mut [u8]>) -> Result<Vec<RowLosses>> {
        let Layout { columns, group_size, rule: Rule { dtype, .. } } = self.layout;
        let mut weights = self.weights.to_vec();
        dtype.round_all(&mut weights);
        // Errors of rtn, of search, and of feedback, one above the other.
        let size = weights.len();
        let mut errors = vec![0.0; 3 * size];
        let (rtn, others) = errors.split_at_mut(size);
        let (by_search, fed_back) = others.split_at_mut(size);
        affine::quantize_dequantize(&weights, columns, self.quant, dtype, rtn)?;
        let searched = search(&weights, columns, self.quant, dtype, Some(self.importance))?;
        affine::dequantize(searched.as_slices(), self.quant, dtype, by_search)?;
        for values in [rtn, by_search] {
            values.iter_mut().zip(&weights).for_each(|(value, weight)| *value = weight - *value);
        }
        let groups = size / group_size;
        let mut rows = Rounded { codes: vec![0; size], grids: vec![Grid { scale: 0.0, bias: 0.0 }; groups] };
        let work = Feedback { weights: &weights, task: self, errors: fed_back, out: &mut rows };
        with_wide_vectors(group_size, work);
        let losses = self.hessian.losses(&errors);
        let (rtn, others) = losses.split_at(losses.len() / 3);
        let (search, gptq) = others.split_at(rtn.len());
        let losses: Vec<_> = rtn
            .iter()
            .zip(search)
            .zip(gptq)
            .map(|((&rtn, &search), &gptq)| RowLosses { rtn, search, gptq })
            .collect();
        self.write(&losses, &searched, &rows, &mut out);
        Ok(losses)
    }

    /// Writes each row as it was rounded best.
    fn write(
        &self,
        losses: &[RowLosses],
        searched: &Quantized,
        fed: &Rounded,
        out: &mut Quantized<&mut [u8]>,
    ) {
        let Layout { columns, group_size, rule: Rule { dtype, bits } } = self.layout;
        out.packed.copy_from_slice(&searched.packed);
        out.scales.copy_from_slice(&searched.scales);
        out.biases.copy_from_slice(&searched.biases);
        let floats = out.scales.chunks_exact_mut(self.layout.scales_row());
        let floats = floats.zip(out.biases.chunks_exact_mut(self.layout.scales_row()));
        let outputs = out.packed.chunks_exact_mut(self.layout.packed_row()).zip(floats);
        let rows = fed.codes.chunks_exact(columns).zip(fed.grids.chunks_exact(columns / group_size));
        for ((loss, (codes, grids)), (packed, (scales, biases))) in losses.iter().zip(rows).zip(outputs) {
            if loss.fed_back() {
                pack(codes, bits, packed);
                let (scale, bias): (Vec<f32>, Vec<f32>) = grids.iter().map(|g| (g.scale, g.bias)).unzip();
                dtype.narrow(&scale, scales);
                dtype.narrow(&bias, biases);
            }
        }
    }
}

/// Codes `[rows, columns]` and stored grids `[rows, groups]`.
struct Rounded {
    codes: Vec<u8>,
    grids: Vec<Grid>,
}

/// Error feedback from the last group to the first.
struct Feedback<'a> {
    weights: &'a [f32],
    task: &'a Task<'a>,
    errors: &'a mut [f32],
    out: &'a mut Rounded,
}

impl Kernel for Feedback<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn run<const GROUP: usize>(self) {
        let Layout { columns, rule, .. } = self.task.layout;
        let hessian = self.task.hessian;
        let groups = columns / GROUP;
        let mut targets = Vec::with_capacity(self.weights.len() / groups);
        let mut codes = [[0.0; LANES]; GROUP];
        for group in (0..groups).rev() {
            let start = group * GROUP;
            targets.clear();
            targets.extend(self.weights.chunks_exact(columns).flat_map(|row| &row[start..start + GROUP]));
            hessian.add_later(self.errors, start, GROUP, &mut targets);
            let triangle = Triangle::<GROUP>::new(hessian.unit(), hessian.pivots(), columns, start);
            let tiles = self.weights.chunks(LANES * columns).zip(targets.chunks(LANES * GROUP));
            for (index, (weights, targets)) in tiles.enumerate() {
                let weights: [Lanes; GROUP] = load(weights, columns, start);
                let values = triangle.ideal(&weights, &load(targets, GROUP, 0));
                let grids = triangle.choose(&values, rule);
                triangle.feed_back(&values, &grids, rule.highest(), &mut codes);
                let mut errors = weights;
                for (errors, codes) in errors.iter_mut().zip(&codes) {
                    for lane in 0..LANES {
                        errors[lane] -= grids.scale[lane] * codes[lane] + grids.bias[lane];
                    }
                }
                let first = index * LANES;
                store(&errors, &mut self.errors[first * columns..], columns, start);
                let outputs =
                    self.out.codes.chunks_exact_mut(columns).zip(self.out.grids.chunks_exact_mut(groups));
                for (lane, (out, grid)) in outputs.skip(first).take(LANES).enumerate() {
                    let codes = row(&codes, lane);
                    out[start..start + GROUP].iter_mut().zip(codes).for_each(|(out, code)| *out = code as u8);
                    grid[group] = grids.get(lane);
                }
            }
        }
    }
}
