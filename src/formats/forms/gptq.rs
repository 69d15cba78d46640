//! GPTQ: integers in words down each column, lowest bits first along the input, with a scale and a zero point for each group of
//! inputs and each output. With act-order, groups are of columns anywhere, which MLX cannot say.

use super::condition::Condition;
use super::grid::{Grid, Zeros};
use super::integers::{Codes, Integers};
use super::layer::Layer;
use super::packed::read_order;
use super::parts::{FLOATS, Parts, matrix, of_shape};
use crate::error::Result;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Words of zero points that are read at a time.
const STEP: usize = 1 << 16;

/// Settings of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) bits: u32,
    /// Columns of a group; `None` for all.
    pub(crate) group: Option<usize>,
    /// True if zero points are stored less one, as in version 1.
    pub(crate) less_one: bool,
}

/// Reads the layer at `parts.path`.
pub(crate) fn read(settings: Settings, parts: &mut Parts<'_>) -> Result<Layer> {
    let Settings { bits, group, less_one } = settings;
    let codes = parts.need_as(".qweight", &[Dtype::I32, Dtype::U32])?;
    let zeros = parts.need_as(".qzeros", &[Dtype::I32, Dtype::U32])?;
    let scales = parts.need_as(".scales", &FLOATS)?;
    let order = parts.find(".g_idx");
    let [words, rows] = matrix(&codes)?;
    let whole = |numbers: usize| (numbers * 32).is_multiple_of(bits as usize);
    if !whole(words) || !(rows * bits as usize).is_multiple_of(32) {
        return Err(codes.error(format!("shape {:?} holds no whole rows of {bits} bits", codes.shape())));
    }
    let columns = words * 32 / bits as usize;
    let group = group.unwrap_or(columns);
    of_shape(&zeros, &[columns.div_ceil(group), rows * bits as usize / 32])?;
    let plus = u32::from(less_one);
    let zeros = match single(&zeros, bits, plus) {
        Some(zero) => Zeros::Same(zero),
        None => Zeros::Stream { words: zeros, bits, plus },
    };
    let mut grid = Grid::by_group(scales, zeros, [rows, columns], group)?;
    let mut condition = None;
    if let Some(order) = order {
        grid.order = read_order(&order, columns, group)?;
        condition = (columns > group).then(|| Condition::not_zero(&order));
    }
    let form = if grid.order.is_some() { "gptq, act-order" } else { "gptq" };
    let mut layer = Integers { codes: Codes::Columns(codes), grid, rows, columns, bits }.layer(form);
    layer.conditions.extend(condition);
    Ok(layer)
}

/// Returns the zero point where all are one, the middle of the codes, as in symmetric quantization.
fn single(zeros: &Stored, bits: u32, plus: u32) -> Option<f32> {
    let middle = 1u64 << (bits - 1);
    let number = (middle - u64::from(plus)) & ((1 << bits) - 1);
    // Three words hold whole numbers of any width up to 8 bits but 5 and 7, which GPTQ does not have.
    let stream = (0..96 / bits).fold(0u128, |stream, place| stream | u128::from(number) << (place * bits));
    let expected: [u32; 3] = std::array::from_fn(|word| (stream >> (32 * word)) as u32);
    let [_, row] = *zeros.shape() else { return None };
    let length = zeros.len();
    let is_expected = |start: usize| {
        let words = zeros.words(start..(start + STEP).min(length));
        words.iter().zip(start..).all(|(&word, place)| word == expected[place % row % 3])
    };
    (0..length).step_by(STEP).all(is_expected).then_some(middle as f32)
}
