//! Matrices whose columns are divided by their norms, as they are read.

use std::ops::Range;
use std::sync::OnceLock;

use super::backing::{Made, Make};
use super::checkpoint::Checkpoint;
use super::entry::Entry;
use super::stored::Stored;
use crate::error::Result;
use crate::numerics::dtype::Dtype;

/// Addend of the divisors.
const EPSILON: f64 = 1e-7;

/// Values that are read at a time.
const STEP: usize = 1 << 20;

impl Checkpoint {
    /// Divides the columns of the matrix `name` by their Euclidean norms, which are computed when it is first read.
    ///
    /// # Errors
    /// Where it is no matrix of floats.
    pub(crate) fn normalize_columns(&mut self, name: &str) -> Result<()> {
        let Some(matrix) = Stored::of(self, name) else { return Ok(()) };
        let [rows, columns] = super::forms::matrix(&matrix)?;
        if !matrix.dtype().is_float() {
            return Err(matrix
                .error("is quantized, and config.json says that its columns are to be divided by their norms")
                .hint("start from the float checkpoint, of which the head is written divided"));
        }
        let path = matrix.path().to_owned();
        let rows_made = NormalizedColumns { matrix, divisors: OnceLock::new() };
        let size = Dtype::F32.size();
        let file = self.add_made(&path, Made { row_bytes: columns * size, rows: Box::new(rows_made) });
        let mut entry = Entry::new(file, Dtype::F32, vec![rows, columns], [0, rows * columns * size]);
        entry.parts.push(name.to_owned());
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }
}

/// Rows of float32 of such a matrix.
#[derive(Debug)]
struct NormalizedColumns {
    matrix: Stored,
    divisors: OnceLock<Vec<f32>>,
}

impl NormalizedColumns {
    fn columns(&self) -> usize {
        self.matrix.shape().last().copied().unwrap_or(1)
    }

    /// Returns the norm of each column plus [`EPSILON`].
    fn divisors(&self) -> &[f32] {
        self.divisors.get_or_init(|| {
            let columns = self.columns();
            let mut squares = vec![0.0f64; columns];
            let step = (STEP / columns).max(1) * columns;
            for start in (0..self.matrix.len()).step_by(step) {
                let range = start..(start + step).min(self.matrix.len());
                for row in self.matrix.values(range).chunks(columns) {
                    squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
                }
            }
            squares.into_iter().map(|sum| (sum.sqrt() + EPSILON) as f32).collect()
        })
    }
}

impl Make for NormalizedColumns {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let columns = self.columns();
        let values = self.matrix.values(rows.start * columns..rows.end * columns);
        let divisors = self.divisors().iter().cycle();
        for ((value, divisor), bytes) in values.iter().zip(divisors).zip(out.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&(value / divisor).to_le_bytes());
        }
    }
}
