//! Maxima, sums and exponentials over rows of float32, in lanes that the compiler makes vectors of. Every instruction set
//! and number of threads gives the same bits.

#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

use super::wide::wide;

/// Values side by side.
const LANES: usize = 16;
/// Values whose sum is taken in float32; longer sums are of these, in float64.
const RUN: usize = 256;

/// Returns exp(x) for x up to 88, within two units in the last place; 0 below -88. The polynomial is that of Cephes' expf.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -88.0 { -88.0 } else { x };
    // x = n ln 2 + r. Adding 1.5 * 2^23 leaves no bits for a fraction, and n in the lowest ones. ln 2 is in two parts, the
    // first so short that its product with n is exact.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (x - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
    let mut p = r * 1.987_569_2e-4 + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    // 2^n by its exponent's bits, all of them 0 for n = -127.
    p * f32::from_bits(shifted.to_bits().wrapping_sub(0x4b40_0000 - 127) << 23)
}

/// Sums `value(a, b)` over two rows of one length, in lanes.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], value: impl Fn(f32, f32) -> f32) -> f64 {
    let mut total = 0.0;
    for (a, b) in a.chunks(RUN).zip(b.chunks(RUN)) {
        let (full_a, rest_a) = a.as_chunks::<LANES>();
        let (full_b, rest_b) = b.as_chunks::<LANES>();
        let mut lanes = [0.0f32; LANES];
        for (a, b) in full_a.iter().zip(full_b) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += value(a, b);
            }
        }
        for ((lane, &a), &b) in lanes.iter_mut().zip(rest_a).zip(rest_b) {
            *lane += value(a, b);
        }
        total += f64::from(lanes.iter().sum::<f32>());
    }
    total
}

wide! {
    /// Returns the largest value that is a number; -infinity if there is none.
    pub fn largest(row: &[f32]) -> f32 {
        let (full, rest) = row.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for values in full {
            for (lane, &x) in lanes.iter_mut().zip(values) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most })
    }
}

/// Kinds of values that a row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// True if one at least is finite.
    pub(crate) finite: bool,
    /// True if one at least is NaN.
    pub(crate) nan: bool,
}

wide! {
    /// Returns the kinds of values in a row.
    pub(crate) fn kinds(row: &[f32]) -> Kinds {
        let (full, rest) = row.as_chunks::<LANES>();
        let (mut finite, mut nan) = ([0u32; LANES], [0u32; LANES]);
        let mark = |((finite, nan), &x): ((&mut u32, &mut u32), &f32)| {
            *finite |= u32::from(x.abs() < f32::INFINITY);
            *nan |= u32::from(x.is_nan());
        };
        for values in full {
            finite.iter_mut().zip(&mut nan).zip(values).for_each(mark);
        }
        finite.iter_mut().zip(&mut nan).zip(rest).for_each(mark);
        Kinds { finite: finite.contains(&1), nan: nan.contains(&1) }
    }
}

wide! {
    /// Returns sum_i exp(x_i - largest).
    pub fn sum_of_exponentials(row: &[f32], largest: f32) -> f64 {
        sum(row, row, |x, _| exp(x - largest))
    }
}

wide! {
    /// Turns x into exp(x - largest) and returns the sum.
    pub fn exponentials(row: &mut [f32], largest: f32) -> f64 {
        for x in row.iter_mut() {
            *x = exp(*x - largest);
        }
        sum(row, row, |x, _| x)
    }
}

wide! {
    /// Returns sum_i exp(p_i) (p_i - q_i - shift), of which a p_i of -infinity adds nothing. Both rows come less their
    /// largest.
    pub fn sum_of_divergences(p: &[f32], largest_p: f32, q: &[f32], largest_q: f32, shift: f32) -> f64 {
        sum(p, q, |p, q| {
            let (p, q) = (p - largest_p, q - largest_q);
            let weight = exp(p);
            if weight > 0.0 { weight * (p - q - shift) } else { 0.0 }
        })
    }
}

wide! {
    /// Turns both rows, of one length, into exp(x - largest) and returns the sums of p, of q and of p_i (log p_i - log q_i).
    /// A p_i of 0 adds nothing.
    pub fn exponentials_and_divergence(p: &mut [f32], largest_p: f32, q: &mut [f32], largest_q: f32) -> [f64; 3] {
        let mut totals = [0.0; 3];
        for (p, q) in p.chunks_mut(RUN).zip(q.chunks_mut(RUN)) {
            let (full_p, rest_p) = p.as_chunks_mut::<LANES>();
            let (full_q, rest_q) = q.as_chunks_mut::<LANES>();
            let mut lanes = [[0.0f32; LANES]; 3];
            for (p, q) in full_p.iter_mut().zip(full_q) {
                for lane in 0..LANES {
                    let (log_p, log_q) = (p[lane] - largest_p, q[lane] - largest_q);
                    (p[lane], q[lane]) = (exp(log_p), exp(log_q));
                    lanes[0][lane] += p[lane];
                    lanes[1][lane] += q[lane];
                    lanes[2][lane] += if p[lane] > 0.0 { p[lane] * (log_p - log_q) } else { 0.0 };
                }
            }
            for (p, q) in rest_p.iter_mut().zip(rest_q) {
                let (log_p, log_q) = (*p - largest_p, *q - largest_q);
                (*p, *q) = (exp(log_p), exp(log_q));
                lanes[0][0] += *p;
                lanes[1][0] += *q;
                lanes[2][0] += if *p > 0.0 { *p * (log_p - log_q) } else { 0.0 };
            }
            for (total, lanes) in totals.iter_mut().zip(&lanes) {
                *total += f64::from(lanes.iter().sum::<f32>());
            }
        }
        totals
    }
}

wide! {
    /// Returns sum_i weights_i x_i^2.
    pub fn weighted_square(x: &[f32], weights: &[f32]) -> f64 {
        sum(x, weights, |x, weight| weight * x * x)
    }
}

wide! {
    /// Adds x^2 to `sums`, elementwise; returns false if a sum is not finite then.
    pub fn add_squares(sums: &mut [f32], x: &[f32]) -> bool {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * x;
        }
        // Zeros, unless one is infinite or NaN.
        sum(sums, sums, |sum, _| 0.0 * sum).is_finite()
    }
}

wide! {
    /// True if every value is finite.
    pub fn is_finite(x: &[f32]) -> bool {
        sum(x, x, |x, _| 0.0 * x).is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, range: f32) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(count as u64);
        (0..count).map(|_| (2.0 * rng.f32() - 1.0) * range).collect()
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() <= 1e-5 * expected.abs().max(1e-30),
            "{found:e}, expected {expected:e}"
        );
    }

    #[test]
    fn exponentials_of_every_size() {
        for x in values(10_000, 88.0).into_iter().map(|x| -x.abs()).chain([0.0, -87.0]) {
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7 || expected < 1.2e-38, "{x}");
        }
        let limits = [exp(-88.5), exp(f32::NEG_INFINITY), exp(0.0)];
        assert_eq!(limits.map(f32::to_bits), [0.0f32, 0.0, 1.0].map(f32::to_bits));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn rows_of_any_length() {
        for count in [0, 1, 15, 16, 17, 255, 256, 257, 1000] {
            let (p, q) = (values(count, 9.0), values(count + 1, 9.0));
            let most = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&p).to_bits(), most.to_bits());
            let weight = |x: &f32| f64::from(x - most).exp();
            let total: f64 = p.iter().map(weight).sum();
            assert_close(sum_of_exponentials(&p, most), total);
            let mut row = p.clone();
            assert_close(exponentials(&mut row, most), total);
            assert!(row.iter().zip(&p).all(|(found, x)| (f64::from(*found) - weight(x)).abs() < 1e-6));
            let terms = p.iter().zip(&q).map(|(p, q)| weight(p) * f64::from(p - most - (q - 9.0) - 40.0));
            assert_close(sum_of_divergences(&p, most, &q[..count], 9.0, 40.0), terms.sum());
            let (mut both_p, mut both_q) = (p.clone(), q[..count].to_vec());
            let [sum_p, sum_q, divergence] = exponentials_and_divergence(&mut both_p, most, &mut both_q, 9.0);
            assert_eq!(both_p, row);
            assert_close(sum_p, total);
            assert_close(sum_q, both_q.iter().map(|&q| f64::from(q)).sum());
            assert!(
                both_q
                    .iter()
                    .zip(&q)
                    .all(|(found, q)| (f64::from(*found).ln() - f64::from(q - 9.0)).abs() < 1e-5)
            );
            let terms = p.iter().zip(&q).map(|(p, q)| weight(p) * f64::from(p - most - (q - 9.0)));
            let expected = terms.sum::<f64>();
            assert!(
                (divergence - expected).abs() <= 1e-5 * (expected.abs() + total),
                "{divergence} {expected}"
            );
            let squares: f64 = p.iter().zip(&q).map(|(p, q)| f64::from(p * p * q.abs())).sum();
            let weights: Vec<f32> = q[..count].iter().map(|q| q.abs()).collect();
            assert_close(weighted_square(&p, &weights), squares);
        }
    }

    #[test]
    fn squares_that_are_not_finite_are_seen() {
        for bad in [1e30, f32::INFINITY, f32::NAN] {
            let mut x = values(300, 1.0);
            assert!(add_squares(&mut vec![1.0; 300], &x));
            x[299] = bad;
            assert!(!add_squares(&mut vec![1.0; 300], &x));
        }
    }

    #[test]
    fn kinds_of_values_are_found_wherever_they_are() {
        for length in [1, 15, 16, 17, 40] {
            for at in 0..length {
                let with = |x: f32| {
                    let mut row = vec![f32::NEG_INFINITY; length];
                    row[at] = x;
                    kinds(&row)
                };
                assert_eq!(with(f32::INFINITY), Kinds { finite: false, nan: false });
                assert_eq!(with(-1.0), Kinds { finite: true, nan: false });
                assert_eq!(with(f32::NAN), Kinds { finite: false, nan: true });
            }
        }
        assert_eq!(kinds(&[]), Kinds { finite: false, nan: false });
    }

    #[test]
    fn what_is_impossible_adds_nothing() {
        let (p, q) = ([0.0, f32::NEG_INFINITY], [0.0, 0.0]);
        assert_close(sum_of_divergences(&p, 0.0, &q, 0.0, -1.0), 1.0);
    }
}
