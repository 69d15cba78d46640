//! Descent after error feedback: codes change one by one, and grids are refitted group by group, wherever a row then
//! loses less.
//!
//! Feedback settles a group before it knows the columns that come after it in its order. Here all are known: with the
//! damped `H` and a row's errors `d`, `H d` says what a change of any code or grid is worth. No change makes the loss
//! `d H d^T` larger, but for what products in float32 round.

#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

use super::fit::Rule;
use super::linalg::Hessian;
use crate::numerics::affine::Grid;
use crate::numerics::wide::Kernel;

/// Passes of descent over all groups of a row.
pub const PASSES: usize = 4;
/// Rounds within a group: a few cost little beside the products between groups.
const ROUNDS: usize = 3;

/// Rounded rows, to be improved in place.
pub(crate) struct Descent<'a> {
    pub hessian: &'a Hessian<'a>,
    pub rule: Rule,
    /// Most passes over all groups.
    pub passes: usize,
    /// The weights `[rows, columns]`.
    pub weights: &'a [f32],
    /// Errors of the weights as rounded.
    pub errors: &'a mut [f32],
    /// Codes of the weights.
    pub codes: &'a mut [u8],
    /// Grids `[rows, groups]`, as stored.
    pub grids: &'a mut [Grid],
}

impl Kernel for Descent<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const GROUP: usize>(mut self) {
        let columns = self.hessian.columns();
        let (rows, groups) = (self.weights.len() / columns, columns / GROUP);
        let mut gradients = self.hessian.gradients(self.errors);
        let mut changes = vec![0.0; rows * GROUP];
        for pass in 0..self.passes {
            let mut changed = false;
            for step in 0..groups {
                // There and back: neither end is always the first.
                let group = if pass.is_multiple_of(2) { step } else { groups - 1 - step };
                if self.improve::<GROUP>(group, &gradients, &mut changes) {
                    self.hessian.add_gradients(&changes, group * GROUP, GROUP, &mut gradients);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }
}

impl Descent<'_> {
    /// Improves one group of all rows, writes the `changes` of its errors, and returns false if there is none.
    #[inline(always)]
    fn improve<const GROUP: usize>(&mut self, group: usize, gradients: &[f32], changes: &mut [f32]) -> bool {
        let columns = self.hessian.columns();
        let start = group * GROUP;
        let block = Block::<GROUP>::new(self.hessian, start);
        let mut changed = false;
        let rows = self.errors.chunks_exact_mut(columns).zip(self.codes.chunks_exact_mut(columns));
        let rows = rows.zip(self.grids.chunks_exact_mut(columns / GROUP));
        for (row, ((errors, codes), grids)) in rows.enumerate() {
            let at = row * columns + start;
            let mut work = GroupOfRow {
                block: &block,
                rule: self.rule,
                gradient: [0.0; GROUP],
                codes: [0.0; GROUP],
                grid: grids[group],
            };
            work.gradient.copy_from_slice(&gradients[at..at + GROUP]);
            let codes = &mut codes[start..start + GROUP];
            work.codes.iter_mut().zip(&*codes).for_each(|(code, &from)| *code = f32::from(from));
            for _ in 0..ROUNDS {
                work.change_codes();
                work.refit();
            }
            grids[group] = work.grid;
            codes.iter_mut().zip(work.codes).for_each(|(code, from)| *code = from as u8);
            let (errors, weights) = (&mut errors[start..start + GROUP], &self.weights[at..at + GROUP]);
            let change = &mut changes[row * GROUP..(row + 1) * GROUP];
            let values = weights.iter().zip(work.codes);
            for ((error, change), (weight, code)) in errors.iter_mut().zip(change).zip(values) {
                let next = weight - (work.grid.scale * code + work.grid.bias);
                *change = next - *error;
                *error = next;
                changed |= *change != 0.0;
            }
        }
        changed
    }
}

/// Diagonal block of a group's columns in the damped Hessian.
struct Block<const GROUP: usize> {
    rows: Vec<[f32; GROUP]>,
    /// Gradient of errors of 1 in all columns.
    ones: [f32; GROUP],
    /// Loss of errors of 1 in all columns.
    total: f64,
}

impl<const GROUP: usize> Block<GROUP> {
    #[inline(always)]
    fn new(hessian: &Hessian<'_>, start: usize) -> Self {
        let mut rows = vec![[0.0; GROUP]; GROUP];
        hessian.copy_damped(start, rows.as_flattened_mut(), GROUP);
        let ones = std::array::from_fn(|j| rows[j].iter().sum());
        Self { rows, total: sum(&ones, &[1.0; GROUP]), ones }
    }
}

/// One group of one row.
struct GroupOfRow<'a, const GROUP: usize> {
    block: &'a Block<GROUP>,
    rule: Rule,
    /// Half the gradient of the row's loss with respect to the group's errors.
    gradient: [f32; GROUP],
    codes: [f32; GROUP],
    grid: Grid,
}

impl<const GROUP: usize> GroupOfRow<'_, GROUP> {
    /// Gives every code in turn its best value, the others being as they are.
    #[inline(always)]
    fn change_codes(&mut self) {
        /// Share by which the distance to the best value must shrink: rounding must not move a code to and fro.
        const MARGIN: f32 = 0.999;
        let (block, scale, highest) = (self.block, self.grid.scale, self.rule.highest());
        for (j, row) in block.rows.iter().enumerate() {
            let code = self.codes[j];
            let best = code + self.gradient[j] / (row[j] * scale);
            // A scale of zero makes this infinite, and a column of zeros makes it NaN: neither is nearer than the code is.
            let next = best.clamp(0.0, highest).round_ties_even();
            if (next - best).abs() < (code - best).abs() * MARGIN {
                self.codes[j] = next;
                self.subtract(scale * (next - code), row);
            }
        }
    }

    /// Fits scale and bias to the codes by least squares. The scale is rounded to its type first, and the bias then suits
    /// the rounded scale.
    #[inline(always)]
    fn refit(&mut self) {
        let block = self.block;
        let Block { rows, ones, total } = block;
        let mut line = [0.0; GROUP];
        for (row, code) in rows.iter().zip(self.codes) {
            line.iter_mut().zip(row).for_each(|(line, h)| *line += code * h);
        }
        let unit = [1.0; GROUP];
        let (qq, q1) = (sum(&line, &self.codes), sum(&line, &unit));
        let (qe, e1) = (sum(&self.gradient, &self.codes), sum(&self.gradient, &unit));
        let dtype = self.rule.dtype;
        let moved = |from: f32, by: f64| dtype.round((f64::from(from) + by) as f32);
        // Where codes are all alike, scale and bias say the same, and what is left of the determinant is rounding.
        let determinant = qq * total - q1 * q1;
        let step = if determinant > 1e-6 * qq * total { (qe * total - e1 * q1) / determinant } else { 0.0 };
        let scale = moved(self.grid.scale, step);
        let by_scale = f64::from(scale) - f64::from(self.grid.scale);
        let bias = moved(self.grid.bias, (e1 - by_scale * q1) / total);
        let by_bias = f64::from(bias) - f64::from(self.grid.bias);
        let change = by_scale * (by_scale * qq + 2.0 * by_bias * q1 - 2.0 * qe)
            + by_bias * (by_bias * total - 2.0 * e1);
        // A change that is not finite is not below zero.
        if change < 0.0 {
            self.grid = Grid { scale, bias };
            self.subtract(by_scale as f32, &line);
            self.subtract(by_bias as f32, ones);
        }
    }

    #[inline(always)]
    fn subtract(&mut self, factor: f32, values: &[f32; GROUP]) {
        for (gradient, value) in self.gradient.iter_mut().zip(values) {
            *gradient -= factor * value;
        }
    }
}

/// Returns the sum of products, in the order of the columns.
#[inline(always)]
fn sum<const GROUP: usize>(a: &[f32; GROUP], b: &[f32; GROUP]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (&a, &b)| sum + f64::from(a) * f64::from(b))
}
