//! AWQ (gemm): four-bit numbers in words of eight outputs, in an order of their own, with a scale and a zero point for each group
//! of inputs and each output.

use super::grid::{Grid, Zeros};
use super::integers::{Codes, Integers};
use super::layer::Layer;
use super::parts::{FLOATS, Parts, matrix, of_shape};
use crate::error::Result;
use crate::numerics::dtype::Dtype;

/// Outputs in a word.
const PER_WORD: usize = 8;

/// Reads the layer at `parts.path`; `group` is the number of columns in a group, `None` for all.
pub(crate) fn read(group: Option<usize>, parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as(".qweight", &[Dtype::I32, Dtype::U32])?;
    let zeros = parts.need_as(".qzeros", &[Dtype::I32, Dtype::U32])?;
    let scales = parts.need_as(".scales", &FLOATS)?;
    let [columns, words] = matrix(&codes)?;
    let group = group.unwrap_or(columns);
    of_shape(&zeros, &[columns.div_ceil(group), words])?;
    let rows = words * PER_WORD;
    let grid = Grid::by_group(scales, Zeros::Awq(zeros), [rows, columns], group)?;
    Ok(Integers { codes: Codes::Awq(codes), grid, rows, columns, bits: 4 }.layer("awq"))
}
