//! One group of a tile under error feedback: the grid that loses least when every column knows what the later ones of
//! its group have lost.

#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

use super::fit::{Moments, REFITS, Rule, cut, error, ranges};
use super::tile::{Grids, LANES, Lanes, less, nearest_code, nearest_grids, replace};

/// The diagonal block of a group's columns in the factors of the Hessian.
pub(crate) struct Triangle<const GROUP: usize> {
    /// `later[j][i]` is `N[i][j]` for `i > j`, 1 for `i = j`.
    later: Vec<[f32; GROUP]>,
    pivots: [f32; GROUP],
    /// Errors that a bias of 1 leaves in each column, and their loss.
    ones: [f32; GROUP],
    total: f32,
}

impl<const GROUP: usize> Triangle<GROUP> {
    /// Takes the group at column `start` from the factors of a matrix of `columns` columns.
    pub fn new(unit: &[f32], pivots: &[f32], columns: usize, start: usize) -> Self {
        let mut this =
            Self { later: vec![[0.0; GROUP]; GROUP], pivots: [0.0; GROUP], ones: [0.0; GROUP], total: 0.0 };
        this.pivots.iter_mut().zip(&pivots[start..]).for_each(|(to, &from)| *to = from);
        for i in 0..GROUP {
            let row = &unit[(start + i) * columns + start..][..=i];
            for (j, &value) in row.iter().enumerate() {
                this.later[j][i] = value;
                this.ones[j] += value;
            }
        }
        this.total = this.ones.iter().zip(&this.pivots).map(|(o, p)| p * (o * o)).sum();
        this
    }

    /// Rounds `values` on `grids` from the last column to the first, writes the codes and returns the losses.
    #[inline(always)]
    pub fn feed_back(
        &self,
        values: &[Lanes; GROUP],
        grids: &Grids,
        highest: f32,
        codes: &mut [Lanes; GROUP],
    ) -> Lanes {
        self.pass::<false>(values, grids, highest, codes).0
    }

    #[inline(always)]
    fn pass<const MOMENTS: bool>(
        &self,
        values: &[Lanes; GROUP],
        grids: &Grids,
        highest: f32,
        codes: &mut [Lanes; GROUP],
    ) -> (Lanes, Moments) {
        let inverse = grids.inverse();
        let (mut loss, mut sums) = ([0.0; LANES], Moments::ZERO);
        let mut errors = [[0.0; LANES]; GROUP];
        for (j, factors) in self.later.iter().enumerate().rev() {
            let (mut target, mut line) = (values[j], [0.0; LANES]);
            for i in j + 1..GROUP {
                for lane in 0..LANES {
                    target[lane] += factors[i] * errors[i][lane];
                    if MOMENTS {
                        line[lane] += factors[i] * codes[i][lane];
                    }
                }
            }
            let (p, one) = (self.pivots[j], self.ones[j]);
            for lane in 0..LANES {
                let q = nearest_code(target[lane], inverse[lane], grids.bias[lane], highest);
                let value = grids.scale[lane] * q + grids.bias[lane];
                codes[j][lane] = q;
                errors[j][lane] = values[j][lane] - value;
                let e = target[lane] - value;
                loss[lane] += p * (e * e);
                if MOMENTS {
                    let q = q + line[lane];
                    sums.qq[lane] += p * (q * q);
                    sums.q1[lane] += p * (q * one);
                    sums.qe[lane] += p * (q * e);
                    sums.e1[lane] += p * (e * one);
                }
            }
        }
        (loss, sums)
    }

    /// Returns the values of the group's columns at which nothing is lost before rounding: `targets` are the
    /// `weights` with what later groups contribute.
    #[inline(always)]
    pub fn ideal(&self, weights: &[Lanes; GROUP], targets: &[Lanes; GROUP]) -> [Lanes; GROUP] {
        let mut values = *targets;
        for (j, factors) in self.later.iter().enumerate().rev() {
            let mut value = targets[j];
            for i in j + 1..GROUP {
                for lane in 0..LANES {
                    value[lane] -= factors[i] * (values[i][lane] - weights[i][lane]);
                }
            }
            // A breakdown is seen by its loss; here it must only do no harm.
            values[j] = value.map(|v| if v.is_finite() { v } else { 0.0 });
        }
        values
    }

    /// Returns the best grid, as stored: of those that [`super::fit`] starts from and rtn's, refitted.
    #[inline(always)]
    pub fn choose(&self, values: &[Lanes; GROUP], rule: Rule) -> Grids {
        /// Bits from which the start is chosen without feedback, on every second weight, at a fraction of the work. With
        /// fewer bits that costs quality: a tenth more KL divergence at 3 bits per weight, on a trained model.
        const MANY: u32 = 4;
        let highest = rule.highest();
        let mut codes = [[0.0; LANES]; GROUP];
        let (mut best, mut least) = (Grids::ZERO, [f32::INFINITY; LANES]);
        let mut attempt = |grids: &Grids| {
            let loss = if rule.bits < MANY {
                self.feed_back(values, grids, highest, &mut codes)
            } else {
                error(values, &self.pivots, grids, highest, if GROUP > 32 { 2 } else { 1 })
            };
            let take = less(&loss, &least);
            best.replace(&take, grids);
            replace(&mut least, &take, &loss);
        };
        if let Ok(rtn) = nearest_grids(values, rule.bits) {
            attempt(&rtn.stored(rule.dtype));
        }
        let range = ranges(values);
        for &start in rule.starts() {
            attempt(&cut(&range, start, rule));
        }
        let mut grids = best;
        let mut sums;
        (least, sums) = self.pass::<true>(values, &grids, highest, &mut codes);
        for _ in 0..REFITS {
            grids = sums.refit(&grids, self.total, rule.dtype);
            let loss;
            (loss, sums) = self.pass::<true>(values, &grids, highest, &mut codes);
            let take = less(&loss, &least);
            best.replace(&take, &grids);
            replace(&mut least, &take, &loss);
        }
        best
    }
}
