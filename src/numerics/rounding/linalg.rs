//! The factors of a Hessian, and products with it.
//!
//! With `H = N diag(p) N^T`, `N` unit lower triangular, the loss of an error row `d` is `sum_j p_j ((d N)_j)^2`, and
//! `(d N)_j` is `d_j` plus what the columns *after* `j` contribute. So columns are rounded from the last to the first,
//! each knowing what is already lost, and no inverse is needed: GPTQ (arXiv:2210.17323) in the form of Babai's nearest
//! plane (arXiv:2507.18553). Products are one thread's each and cut in the same way on every machine, so that the
//! number of threads changes nothing.

use rayon::prelude::*;

use super::rounded::{Result, RoundingError};
use crate::numerics::affine::same_length;

/// Columns that are factored at a time.
const PANEL: usize = 128;
/// Rows of a task of the factorization.
const ROWS: usize = 256;
/// Times that damping is raised tenfold before giving up.
const RETRIES: i32 = 2;

/// The type that a factorization was done in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// float32 was enough.
    Single,
    /// float32 lost a pivot.
    Double,
}

/// Second moments of a layer's inputs, `H = E[x x^T]`, with their damped factors. Layers with the same input share it.
#[derive(Debug)]
pub struct Hessian<'a> {
    moments: &'a [f32],
    columns: usize,
    /// `N`, row-major; what lies above the diagonal means nothing.
    unit: Vec<f32>,
    pivots: Vec<f32>,
    damping: f64,
    /// The damping in units of the moments.
    added: f32,
    precision: Precision,
}

impl<'a> Hessian<'a> {
    /// Factors `moments`, `[columns, columns]` and symmetric, after adding `damping` times the mean of the diagonal
    /// to the diagonal (0.01 is usual; float32's epsilon is the least). Where float32 loses a pivot float64 is
    /// tried, and where that is not enough ten times the damping.
    pub fn new(moments: &'a [f32], columns: usize, damping: f64) -> Result<Self> {
        same_length("second moments of inputs", moments.len(), columns * columns)?;
        let finite = |part: &[f32]| part.iter().fold(true, |finite, h| finite & h.is_finite());
        if !moments.par_chunks(ROWS * PANEL).all(finite) {
            let at = moments.iter().position(|h| !h.is_finite()).unwrap_or_default();
            let value = moments.get(at).copied().unwrap_or(f32::NAN);
            return Err(RoundingError::Moments { row: at / columns, column: at % columns, value });
        }
        let mean = moments.iter().step_by(columns + 1).map(|&h| f64::from(h)).sum::<f64>() / columns as f64;
        if mean < 0.0 {
            return Err(RoundingError::Indefinite);
        }
        let damping = damping.max(f64::from(f32::EPSILON));
        for retry in 0..=RETRIES {
            let damping = damping * 10_f64.powi(retry);
            let (factors, precision) = if let Some(factors) = factor::<f32>(moments, columns, mean, damping) {
                (factors, Precision::Single)
            } else if let Some(factors) = factor::<f64>(moments, columns, mean, damping) {
                (factors, Precision::Double)
            } else {
                continue;
            };
            let ((unit, pivots), added) = (factors, (damping * mean) as f32);
            return Ok(Self { moments, columns, unit, pivots, damping, added, precision });
        }
        Err(RoundingError::Indefinite)
    }

    /// Returns the columns of the layer.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the damping that factoring took.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// Returns the type that factoring took.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the diagonal of `H`: mean squares of the inputs.
    pub fn diagonal(&self) -> Vec<f32> {
        self.moments.iter().step_by(self.columns + 1).copied().collect()
    }

    /// Returns the loss of independent rounding errors in each group, in units of the factors, for a step of 1: the variance
    /// of a uniform error in every column.
    pub(crate) fn noise(&self, group_size: usize) -> Vec<f32> {
        let diagonal = self.diagonal();
        let mean = diagonal.iter().map(|&h| f64::from(h)).sum::<f64>() / self.columns as f64;
        let (scale, damping) = if mean > 0.0 { (1.0 / mean, self.damping) } else { (0.0, 1.0) };
        let damped = |h: &f32| f64::from(*h) * scale + damping;
        diagonal
            .chunks(group_size)
            .map(|group| (group.iter().map(damped).sum::<f64>() / 12.0) as f32)
            .collect()
    }

    /// Returns `p`, of the Hessian brought to a mean of 1 on its diagonal.
    pub(crate) fn pivots(&self) -> &[f32] {
        &self.pivots
    }

    /// Returns `N`.
    pub(crate) fn unit(&self) -> &[f32] {
        &self.unit
    }

    /// Adds to `targets` (rows of `width`, for the columns from `start`) what the errors of all columns after
    /// them contribute.
    pub(crate) fn add_later(&self, errors: &[f32], start: usize, width: usize, targets: &mut [f32]) {
        let (n, later) = (self.columns, start + width);
        let rows = targets.len() / width;
        if later < n && rows > 0 {
            let (a, b) = (Matrix::new(&errors[later..], n), Matrix::new(&self.unit[later * n + start..], n));
            multiply_add(rows, n - later, width, 1.0, a, b, (targets, width));
        }
    }

    /// Returns `d H` of the damped `H` for every row `d` of `errors`.
    pub(crate) fn gradients(&self, errors: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; errors.len()];
        self.add_gradients(errors, 0, self.columns, &mut out);
        out
    }

    /// Adds to `gradients` what `changes` of the errors of the columns from `start` (rows of `width`) contribute.
    pub(crate) fn add_gradients(&self, changes: &[f32], start: usize, width: usize, gradients: &mut [f32]) {
        let n = self.columns;
        let rows = changes.len() / width;
        let (a, b) = (Matrix::new(changes, width), Matrix::new(&self.moments[start * n..], n));
        multiply_add(rows, width, n, 1.0, a, b, (gradients, n));
        for (gradients, changes) in gradients.chunks_exact_mut(n).zip(changes.chunks_exact(width)) {
            gradients[start..].iter_mut().zip(changes).for_each(|(sum, change)| *sum += self.added * change);
        }
    }

    /// Writes the block `[size, size]` of the damped `H` from column `start`.
    pub(crate) fn copy_damped(&self, start: usize, block: &mut [f32], size: usize) {
        let rows = self.moments[start * self.columns..].chunks(self.columns);
        block
            .chunks_exact_mut(size)
            .zip(rows)
            .for_each(|(to, row)| to.copy_from_slice(&row[start..start + size]));
        block.iter_mut().step_by(size + 1).for_each(|h| *h += self.added);
    }

    /// Returns `d H d^T` for every row `d` of `errors`.
    pub(crate) fn losses(&self, errors: &[f32]) -> Vec<f64> {
        let n = self.columns;
        let rows = errors.len() / n;
        let mut sums = vec![0.0; rows];
        let mut product = vec![0.0; rows * PANEL];
        for start in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - start);
            let product = &mut product[..rows * width];
            product.fill(0.0);
            // Twice what lies below the diagonal block, and once the block itself.
            let later = start + width;
            if later < n {
                let (a, b) =
                    (Matrix::new(&errors[later..], n), Matrix::new(&self.moments[later * n + start..], n));
                multiply_add(rows, n - later, width, 2.0, a, b, (product, width));
            }
            let (a, b) =
                (Matrix::new(&errors[start..], n), Matrix::new(&self.moments[start * n + start..], n));
            multiply_add(rows, width, width, 1.0, a, b, (product, width));
            for ((sum, product), errors) in
                sums.iter_mut().zip(product.chunks_exact(width)).zip(errors.chunks_exact(n))
            {
                let dot = |(&a, &b): (&f32, &f32)| f64::from(a) * f64::from(b);
                *sum += product.iter().zip(&errors[start..later]).map(dot).sum::<f64>();
            }
        }
        sums.iter().map(|sum| sum.max(0.0)).collect()
    }
}

/// A number that matrices are made of.
pub(crate) trait Real: Copy + Default + Send + Sync + Into<f64> {
    fn from_f64(value: f64) -> Self;
    /// Computes `c += alpha a b`, by matrixmultiply.
    ///
    /// # Safety
    /// All that the sizes and strides address must lie within what the pointers point to.
    #[allow(clippy::too_many_arguments, reason = "it is BLAS")]
    unsafe fn gemm(
        m: usize,
        k: usize,
        n: usize,
        alpha: Self,
        a: *const Self,
        a_strides: (isize, isize),
        b: *const Self,
        b_strides: (isize, isize),
        c: *mut Self,
        c_stride: isize,
    );
}

macro_rules! real {
    ($type:ty, $gemm:path, $one:expr, $cast:expr) => {
        impl Real for $type {
            fn from_f64(value: f64) -> Self {
                $cast(value)
            }

            unsafe fn gemm(
                m: usize,
                k: usize,
                n: usize,
                alpha: Self,
                a: *const Self,
                (ar, ac): (isize, isize),
                b: *const Self,
                (br, bc): (isize, isize),
                c: *mut Self,
                c_stride: isize,
            ) {
                // SAFETY: the caller's.
                unsafe { $gemm(m, k, n, alpha, a, ar, ac, b, br, bc, $one, c, c_stride, 1) }
            }
        }
    };
}
real!(f32, matrixmultiply::sgemm, 1.0, |value| value as f32);
real!(f64, matrixmultiply::dgemm, 1.0, |value| value);

/// A matrix within a slice, possibly seen transposed.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    values: &'a [T],
    strides: (usize, usize),
}

impl<'a, T> Matrix<'a, T> {
    fn new(values: &'a [T], stride: usize) -> Self {
        Self { values, strides: (stride, 1) }
    }

    fn transposed(self) -> Self {
        Self { strides: (self.strides.1, self.strides.0), ..self }
    }

    /// True if `rows` and `columns` lie within the slice.
    fn holds(self, rows: usize, columns: usize) -> bool {
        rows > 0
            && columns > 0
            && (rows - 1) * self.strides.0 + (columns - 1) * self.strides.1 < self.values.len()
    }

    fn signed(self) -> (isize, isize) {
        (self.strides.0 as isize, self.strides.1 as isize)
    }
}

/// Computes `c += alpha a b` on this thread: `a` is `m x k`, `b` is `k x n`, `c` comes with the stride of its rows.
fn multiply_add<T: Real>(
    m: usize,
    k: usize,
    n: usize,
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    (c, stride): (&mut [T], usize),
) {
    let fits = a.holds(m, k) && b.holds(k, n) && stride >= n && Matrix::new(&*c, stride).holds(m, n);
    assert!(fits, "a product outside its matrices");
    // SAFETY: all three lie within their slices, and `c` is borrowed for writing.
    unsafe {
        T::gemm(
            m,
            k,
            n,
            alpha,
            a.values.as_ptr(),
            a.signed(),
            b.values.as_ptr(),
            b.signed(),
            c.as_mut_ptr(),
            stride as isize,
        );
    }
}

/// Returns `N` and `p` of `moments / mean + damping`; `None` where a pivot is lost. Exactly, no pivot is below the damping,
/// so one below half of it says that the precision was too low.
fn factor<T: Real>(moments: &[f32], n: usize, mean: f64, damping: f64) -> Option<(Vec<f32>, Vec<f32>)> {
    let scale = if mean > 0.0 { 1.0 / mean } else { 0.0 };
    let damping = if mean > 0.0 { damping } else { 1.0 };
    let mut matrix: Vec<T> = moments.par_iter().map(|&h| T::from_f64(f64::from(h) * scale)).collect();
    matrix.iter_mut().step_by(n + 1).for_each(|h| *h = T::from_f64((*h).into() + damping));
    let least = damping / 2.0;
    let mut panel = Vec::new();
    for start in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - start);
        let (top, below) = matrix.split_at_mut((start + width) * n);
        let block = Block::factor(&mut top[start * n + start..], n, width, least)?;
        let inverse: Vec<T> = block.inverse().into_iter().map(T::from_f64).collect();
        panel.clear();
        panel.resize(below.len() / n * width, T::default());
        below.par_chunks_mut(ROWS * n).zip(panel.par_chunks_mut(ROWS * width)).for_each(|(rows, panel)| {
            let (a, b) = (Matrix::new(&rows[start..], n), Matrix::new(&inverse, width).transposed());
            multiply_add(rows.len() / n, width, width, T::from_f64(1.0), a, b, (panel, width));
            for (row, panel) in rows.chunks_exact_mut(n).zip(panel.chunks_exact(width)) {
                row[start..start + width].copy_from_slice(panel);
            }
        });
        // Only what lies on and below the diagonal blocks; the longest rows first.
        below.par_chunks_mut(ROWS * n).enumerate().rev().for_each(|(index, rows)| {
            let (a, b) =
                (Matrix::new(&panel[index * ROWS * width..], width), Matrix::new(&panel, width).transposed());
            let height = rows.len() / n;
            let columns = index * ROWS + height;
            multiply_add(height, width, columns, T::from_f64(-1.0), a, b, (&mut rows[start + width..], n));
        });
    }
    Some(unit(&matrix, n))
}

/// Turns `L` into `N` and `p`.
fn unit<T: Real>(matrix: &[T], n: usize) -> (Vec<f32>, Vec<f32>) {
    let diagonal: Vec<f64> = matrix.iter().step_by(n + 1).map(|&l| l.into()).collect();
    let inverse: Vec<f64> = diagonal.iter().map(|l| 1.0 / l).collect();
    let mut unit = vec![0.0; n * n];
    unit.par_chunks_mut(n).zip(matrix.par_chunks(n)).enumerate().for_each(|(i, (unit, row))| {
        for ((unit, &l), inverse) in unit.iter_mut().zip(row).zip(&inverse).take(i + 1) {
            let l: f64 = l.into();
            *unit = (l * inverse) as f32;
        }
    });
    (unit, diagonal.iter().map(|l| (l * l) as f32).collect())
}

/// The Cholesky factor of a diagonal block, in float64.
struct Block {
    width: usize,
    values: Vec<f64>,
}

impl Block {
    /// Factors the block in place.
    fn factor<T: Real>(matrix: &mut [T], stride: usize, width: usize, least: f64) -> Option<Self> {
        let mut values = vec![0.0; width * width];
        for i in 0..width {
            let (done, row) = values.split_at_mut(i * width);
            for j in 0..=i {
                let mut value: f64 = matrix[i * stride + j].into();
                let other = if j < i { &done[j * width..j * width + j] } else { &[][..] };
                if j < i {
                    value -= row[..j].iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
                    row[j] = value / done[j * width + j];
                } else {
                    value -= row[..j].iter().map(|a| a * a).sum::<f64>();
                    if value < least || !value.is_finite() {
                        return None;
                    }
                    row[j] = value.sqrt();
                }
                matrix[i * stride + j] = T::from_f64(row[j]);
            }
        }
        Some(Self { width, values })
    }

    /// Returns the inverse, lower triangular too.
    fn inverse(&self) -> Vec<f64> {
        let n = self.width;
        let mut inverse = vec![0.0; n * n];
        for i in 0..n {
            let (done, row) = inverse.split_at_mut(i * n);
            let factors = &self.values[i * n..=i * n + i];
            let pivot = factors[i];
            for (k, &factor) in factors[..i].iter().enumerate() {
                let other = &done[k * n..=k * n + k];
                row.iter_mut().zip(other).for_each(|(value, other)| *value -= factor * other);
            }
            row[..i].iter_mut().for_each(|value| *value /= pivot);
            row[i] = 1.0 / pivot;
        }
        inverse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `A A^T / n` of a random `A`: with few columns in `A`, singular.
    fn random(n: usize, rank: usize, seed: u64) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let a: Vec<f64> = (0..n * rank).map(|_| rng.f64() - 0.3).collect();
        let dot = |i: usize, j: usize| (0..rank).map(|k| a[i * rank + k] * a[j * rank + k]).sum::<f64>();
        (0..n * n).map(|at| (dot(at / n, at % n) / rank as f64) as f32).collect()
    }

    #[test]
    fn factors_give_the_damped_moments_back() {
        // Below one panel, whole panels, several tasks of rows, and rests of both.
        for (n, rank) in [(1, 1), (5, 9), (128, 40), (200, 1), (640, 700)] {
            let h = random(n, rank, n as u64);
            let hessian = Hessian::new(&h, n, 0.01).unwrap();
            assert_eq!(hessian.precision(), Precision::Single);
            let mean = hessian.diagonal().iter().sum::<f32>() / n as f32;
            let mut rng = fastrand::Rng::with_seed(1);
            for _ in 0..500 {
                let (i, j) = (rng.usize(..n), rng.usize(..n));
                let sum: f32 = (0..=i.min(j))
                    .map(|k| hessian.unit()[i * n + k] * hessian.pivots()[k] * hessian.unit()[j * n + k])
                    .sum();
                let expected = h[i * n + j] / mean + if i == j { 0.01 } else { 0.0 };
                assert!((sum - expected).abs() < 1e-4, "{n} ({i}, {j}): {sum} {expected}");
            }
        }
    }

    #[test]
    fn losses_and_later_columns_are_the_naive_ones() {
        for n in [32, 128, 160, 416] {
            let h = random(n, n, 1);
            let hessian = Hessian::new(&h, n, 0.01).unwrap();
            let mut rng = fastrand::Rng::with_seed(2);
            let errors: Vec<f32> = (0..3 * n).map(|_| rng.f32() - 0.5).collect();
            for (row, loss) in hessian.losses(&errors).into_iter().enumerate() {
                let d: Vec<f64> = errors[row * n..(row + 1) * n].iter().map(|&d| f64::from(d)).collect();
                let at = |i: usize, j: usize| d[i] * d[j] * f64::from(h[i * n + j]);
                let expected: f64 = (0..n * n).map(|k| at(k / n, k % n)).sum();
                assert!((loss / expected - 1.0).abs() < 1e-4, "{loss} {expected}");
            }
            let mut targets = vec![1.0; 3 * 32];
            hessian.add_later(&errors, n - 32, 32, &mut targets);
            assert!(targets.iter().all(|&t| t.to_bits() == 1_f32.to_bits()));
            hessian.add_later(&errors, 0, 32, &mut targets);
            let expected: f32 = (32..n).map(|i| errors[n + i] * hessian.unit()[i * n + 5]).sum();
            assert!((targets[32 + 5] - 1.0 - expected).abs() < 1e-4);
        }
    }

    #[test]
    fn float64_and_more_damping_where_they_are_needed() {
        // Two inputs that are a million times larger than the others, and almost the same.
        let n = 64;
        let mut h: Vec<f32> = random(n, 100, 3);
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            h[i * n + j] = 1e9;
        }
        for i in 2..n {
            for j in [0, 1] {
                h[i * n + j] = 0.0;
                h[j * n + i] = 0.0;
            }
        }
        let hessian = Hessian::new(&h, n, 1e-6).unwrap();
        assert_eq!(hessian.precision(), Precision::Double);
        assert!((hessian.damping() - 1e-6).abs() < 1e-12);
        assert!(Hessian::new(&h, n, 0.0).unwrap().pivots().iter().all(|p| *p > 0.0));
        // Slightly indefinite: an eigenvalue of -0.05.
        let mut h: Vec<f32> = (0..n * n).map(|i| f32::from(i % (n + 1) == 0)).collect();
        (h[1], h[n]) = (1.05, 1.05);
        assert!((Hessian::new(&h, n, 0.01).unwrap().damping() - 0.1).abs() < 1e-12);
        (h[1], h[n]) = (10.0, 10.0);
        assert_eq!(Hessian::new(&h, n, 0.01).unwrap_err(), RoundingError::Indefinite);
    }

    #[test]
    fn unusable_moments_are_refused() {
        let mut h = random(40, 50, 5);
        assert!(Hessian::new(&h[1..], 40, 0.01).is_err());
        h[3 * 40 + 7] = f32::NAN;
        let error = Hessian::new(&h, 40, 0.01).unwrap_err();
        assert!(matches!(error, RoundingError::Moments { row: 3, column: 7, .. }));
        h.fill(-1.0);
        assert_eq!(Hessian::new(&h, 40, 0.01).unwrap_err(), RoundingError::Indefinite);
    }
}
