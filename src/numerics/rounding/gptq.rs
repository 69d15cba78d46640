//! GPTQ (arXiv:2210.17323): error feedback between columns, with the group parameters chosen under it, then descent.

use rayon::prelude::*;
use std::collections::BTreeMap;

use super::descent::{Descent, PASSES};
use super::fit::Rule;
use super::group::Triangle;
use super::linalg::Hessian;
use super::rounded::{Layout, Result};
use super::search::search;
use super::tile::{LANES, Lanes, load, row, store};
use crate::numerics::affine;
use crate::numerics::affine::{FloatType, Grid, Quantized, pack};
use crate::numerics::quant::Quant;
use crate::numerics::wide::{Kernel, run_kernel};

/// Rows of a task: whole tiles, and enough for the matrix products.
const ROWS: usize = 128;
/// A row whose loss is not below this share of what independent errors would lose is compared with scale search, which
/// leaves at least that much.
const DOUBTFUL: f32 = 0.5;

/// Result of [`gptq()`].
#[derive(Debug, Clone, PartialEq)]
pub struct Gptq {
    /// The quantized weight.
    pub quantized: Quantized,
    /// Rows where error feedback was no better than scale search, which they hold instead.
    pub searched_rows: usize,
}

/// Quantizes so that the layer's outputs change least: minimises `(w - q) H (w - q)^T` for every row, by error feedback and
/// then descent.
pub fn gptq(weights: &[f32], quant: Quant, dtype: FloatType, hessian: &Hessian<'_>) -> Result<Gptq> {
    gptq_with(weights, quant, dtype, hessian, PASSES)
}

/// Quantizes as [`gptq()`] does, with so many passes of descent.
pub(crate) fn gptq_with(
    weights: &[f32],
    quant: Quant,
    dtype: FloatType,
    hessian: &Hessian<'_>,
    passes: usize,
) -> Result<Gptq> {
    let columns = hessian.columns();
    let layout = Layout::new(weights, columns, quant, dtype)?;
    let (importance, noise) = (hessian.diagonal(), hessian.noise(layout.group_size));
    let mut quantized = layout.room(weights.len() / columns);
    let tasks: Vec<Result<usize>> = weights
        .par_chunks(ROWS * columns)
        .zip(quantized.packed.par_chunks_mut(ROWS * layout.packed_row()))
        .zip(quantized.scales.par_chunks_mut(ROWS * layout.scales_row()))
        .zip(quantized.biases.par_chunks_mut(ROWS * layout.scales_row()))
        .map(|(((weights, packed), scales), biases)| {
            let task = Task { quant, layout, hessian, passes, importance: &importance, noise: &noise };
            task.round(weights, Quantized { packed, scales, biases })
        })
        .collect();
    let mut searched_rows = 0;
    for (index, task) in tasks.into_iter().enumerate() {
        searched_rows += task.map_err(|error| error.offset_rows(index * ROWS))?;
    }
    Ok(Gptq { quantized, searched_rows })
}

/// Settings that some rows of the matrix are rounded with.
struct Task<'a> {
    quant: Quant,
    layout: Layout,
    hessian: &'a Hessian<'a>,
    /// Passes of descent.
    passes: usize,
    importance: &'a [f32],
    /// Loss of independent errors of a step of 1 in each group.
    noise: &'a [f32],
}

impl Task<'_> {
    /// Rounds the rows and returns the number of those that scale search rounded.
    fn round(&self, weights: &[f32], mut out: Quantized<&mut [u8]>) -> Result<usize> {
        let Layout { columns, group_size, rule: Rule { dtype, bits } } = self.layout;
        let rows = weights.len() / columns;
        let mut values = weights.to_vec();
        dtype.round_all(&mut values);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(self.layout.not_finite(at / columns, at % columns / group_size * group_size));
        }
        let mut rounded = Rounded {
            codes: vec![0; values.len()],
            grids: vec![Grid { scale: 0.0, bias: 0.0 }; values.len() / group_size],
            losses: vec![0.0; rows],
        };
        let mut errors = vec![0.0; values.len()];
        let work = Feedback { weights: &values, task: self, errors: &mut errors, out: &mut rounded };
        run_kernel(group_size, work);
        let doubtful: Vec<usize> = (0..rows).filter(|row| !self.is_better(&rounded, *row)).collect();
        let searched = self.search_some(&values, &errors, &doubtful)?;
        if self.passes > 0 && searched.len() < rows {
            let descent = Descent {
                hessian: self.hessian,
                rule: self.layout.rule,
                passes: self.passes,
                weights: &values,
                errors: &mut errors,
                codes: &mut rounded.codes,
                grids: &mut rounded.grids,
            };
            run_kernel(group_size, descent);
        }
        for row in 0..rows {
            let [packed, scales, biases] = self.layout.row_of(&mut out, row);
            if let Some(quantized) = searched.get(&row) {
                packed.copy_from_slice(&quantized.packed);
                scales.copy_from_slice(&quantized.scales);
                biases.copy_from_slice(&quantized.biases);
                continue;
            }
            pack(&rounded.codes[row * columns..(row + 1) * columns], bits, packed);
            let (scale, bias): (Vec<f32>, Vec<f32>) =
                self.grids(&rounded, row).iter().map(|grid| (grid.scale, grid.bias)).unzip();
            dtype.narrow(&scale, scales);
            dtype.narrow(&bias, biases);
        }
        Ok(searched.len())
    }

    fn grids<'f>(&self, rounded: &'f Rounded, row: usize) -> &'f [Grid] {
        let groups = self.noise.len();
        &rounded.grids[row * groups..(row + 1) * groups]
    }

    /// True if feedback lost so little in a row that scale search cannot have lost less.
    fn is_better(&self, rounded: &Rounded, row: usize) -> bool {
        let independent: f32 = self
            .grids(rounded, row)
            .iter()
            .zip(self.noise)
            .map(|(grid, noise)| grid.scale * grid.scale * noise)
            .sum();
        rounded.losses[row] < DOUBTFUL * independent
    }

    /// Rounds the `doubtful` rows with scale search and returns those that lose no more than with feedback, whose errors
    /// these are.
    fn search_some(
        &self,
        weights: &[f32],
        errors: &[f32],
        doubtful: &[usize],
    ) -> Result<BTreeMap<usize, Quantized>> {
        let Layout { columns, rule: Rule { dtype, .. }, .. } = self.layout;
        let gather = |values: &[f32]| -> Vec<f32> {
            doubtful.iter().flat_map(|row| &values[row * columns..(row + 1) * columns]).copied().collect()
        };
        let mut better = BTreeMap::new();
        if doubtful.is_empty() {
            return Ok(better);
        }
        let weights = gather(weights);
        let mut searched = search(&weights, columns, self.quant, dtype, Some(self.importance))?;
        let mut both = vec![0.0; weights.len()];
        affine::dequantize(searched.as_slices(), self.quant, dtype, &mut both)?;
        both.iter_mut().zip(&weights).for_each(|(value, weight)| *value = weight - *value);
        both.extend(gather(errors));
        let losses = self.hessian.losses(&both);
        let (by_search, fed_back) = losses.split_at(doubtful.len());
        let mut out = Quantized {
            packed: searched.packed.as_mut_slice(),
            scales: searched.scales.as_mut_slice(),
            biases: searched.biases.as_mut_slice(),
        };
        for (index, (&row, (by_search, fed_back))) in
            doubtful.iter().zip(by_search.iter().zip(fed_back)).enumerate()
        {
            // Not `>=`: a breakdown of feedback has no loss to compare.
            if fed_back.partial_cmp(by_search) != Some(std::cmp::Ordering::Less) {
                let [packed, scales, biases] =
                    self.layout.row_of(&mut out, index).map(|bytes| bytes.to_vec());
                better.insert(row, Quantized { packed, scales, biases });
            }
        }
        Ok(better)
    }
}

/// Codes `[rows, columns]`, stored grids `[rows, groups]`, and losses by row, in units of the factors.
struct Rounded {
    codes: Vec<u8>,
    grids: Vec<Grid>,
    losses: Vec<f32>,
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
                let losses = triangle.feed_back(&values, &grids, rule.highest(), &mut codes);
                let mut errors = weights;
                for (errors, codes) in errors.iter_mut().zip(&codes) {
                    for lane in 0..LANES {
                        errors[lane] -= grids.scale[lane] * codes[lane] + grids.bias[lane];
                    }
                }
                let first = index * LANES;
                store(&errors, &mut self.errors[first * columns..], columns, start);
                self.out.losses.iter_mut().skip(first).zip(losses).for_each(|(sum, loss)| *sum += loss);
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
