//! The result of rounding rows of a matrix, and what can be wrong with the input.

use crate::numerics::affine::{FloatType, QuantizeError, Quantized, same_length};
use crate::numerics::quant::{Mode, Quant};

/// Reason why weights cannot be rounded. It does not name file and tensor: the caller knows them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundingError {
    /// The weights, or their setting.
    #[error(transparent)]
    Affine(#[from] QuantizeError),
    /// A mean square of an input is negative or not finite.
    #[error("column {column}: {value} is no mean square of an input")]
    Importance {
        /// The column.
        column: usize,
        /// Value in that place.
        value: f32,
    },
    /// A value of the second moments of the inputs is not finite.
    #[error("row {row}, column {column} of the inputs' second moments: {value}")]
    Moments {
        /// The row, from 0.
        row: usize,
        /// The column, from 0.
        column: usize,
        /// Value in that place.
        value: f32,
    },
    /// The second moments are so far from positive semidefinite that no damping helps.
    #[error("the inputs' second moments are not positive semidefinite")]
    Indefinite,
}

impl RoundingError {
    /// Turns an error of rows that begin with row `first` of a matrix into one of the matrix.
    #[must_use]
    pub fn offset_rows(mut self, first: usize) -> Self {
        if let Self::Affine(QuantizeError::NotFinite { row, .. }) = &mut self {
            *row += first;
        }
        self
    }

    /// Turns an error of a matrix that was put together from parts of `rows` rows into one of the part.
    #[must_use]
    pub fn in_part(mut self, rows: usize) -> Self {
        if let Self::Affine(QuantizeError::NotFinite { row, .. }) = &mut self {
            *row %= rows.max(1);
        }
        self
    }
}

/// Share of the mean square of a layer's inputs that is added to all of them, so that a Hessian can be factored.
pub const DAMPING: f64 = 0.01;

/// Tokens that an expert must have seen for error feedback: with fewer, what its inputs have in common is chance.
pub const FEW_TOKENS: usize = 32;

pub(crate) type Result<T, E = RoundingError> = std::result::Result<T, E>;

/// A checked setting with the sizes that follow from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) rule: super::fit::Rule,
    pub(crate) group_size: usize,
    pub(crate) columns: usize,
}

impl Layout {
    pub(crate) fn new(weights: &[f32], columns: usize, quant: Quant, dtype: FloatType) -> Result<Self> {
        if quant.mode != Mode::Affine || quant.validate().is_err() {
            return Err(QuantizeError::Unsupported(quant).into());
        }
        let group_size = quant.group_size as usize;
        if columns == 0 || !columns.is_multiple_of(group_size) {
            return Err(QuantizeError::Columns { columns, group_size: quant.group_size }.into());
        }
        same_length("weights", weights.len(), weights.len() / columns * columns)?;
        Ok(Self { rule: super::fit::Rule { bits: quant.bits, dtype }, group_size, columns })
    }

    /// Returns the bytes of a row's codes.
    pub(crate) const fn packed_row(self) -> usize {
        self.columns * self.rule.bits as usize / 8
    }

    /// Returns the bytes of a row's scales.
    pub(crate) const fn scales_row(self) -> usize {
        self.columns / self.group_size * self.rule.dtype.bytes()
    }

    pub(crate) fn room(self, rows: usize) -> Quantized {
        let scales = vec![0; rows * self.scales_row()];
        Quantized { packed: vec![0; rows * self.packed_row()], biases: scales.clone(), scales }
    }

    /// Returns codes, scales and biases of one row.
    pub(crate) fn row_of<'a>(self, out: &'a mut Quantized<&mut [u8]>, row: usize) -> [&'a mut [u8]; 3] {
        let part = |bytes: &'a mut [u8], size: usize| &mut bytes[row * size..(row + 1) * size];
        let scales = self.scales_row();
        [part(out.packed, self.packed_row()), part(out.scales, scales), part(out.biases, scales)]
    }

    pub(crate) fn not_finite(self, row: usize, column: usize) -> RoundingError {
        let (group_size, dtype) = (self.group_size, self.rule.dtype);
        QuantizeError::NotFinite { row, column, group_size, dtype }.into()
    }
}

/// Returns the weights that errors in each column are counted with: mean squares of the inputs, brought to a mean of 1,
/// and a little for every column, so that those that calibration never used are not given up. All 1 where nothing
/// is known.
pub(crate) fn column_weights(importance: Option<&[f32]>, columns: usize) -> Result<Vec<f32>> {
    /// The little.
    const FLOOR: f32 = 0.01;
    let Some(importance) = importance else { return Ok(vec![1.0; columns]) };
    same_length("importances of columns", importance.len(), columns)?;
    let bad = importance.iter().position(|h| !(h.is_finite() && *h >= 0.0));
    if let Some((column, &value)) = bad.and_then(|column| Some((column, importance.get(column)?))) {
        return Err(RoundingError::Importance { column, value });
    }
    let mean = importance.iter().map(|&h| f64::from(h)).sum::<f64>() / columns as f64;
    if mean == 0.0 {
        return Ok(vec![1.0; columns]);
    }
    Ok(importance.iter().map(|&h| (f64::from(h) / mean) as f32 + FLOOR).collect())
}
