//! compressed-tensors' pack-quantized: integers of 1 to 8 bits in words along each row, lowest bits first. Since its version 0.18
//! numbers of 3, 5, 6 and 7 bits run on from word to word; before, each word had whole numbers only. config.json need not name the
//! version, and the width of the words tells.

use super::condition::{Condition, damaged};
use super::declared::Integer;
use super::grid::{Grid, Zeros};
use super::integers::{Codes, Integers};
use super::layer::Layer;
use super::packing::Packing;
use super::parts::{FLOATS, Parts, matrix, of_shape};
use crate::error::{Error, Result};
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Reads the layer at `parts.path`.
pub(crate) fn read(settings: Integer, parts: &mut Parts<'_>) -> Result<Layer> {
    let words = parts.need_as(".weight_packed", &[Dtype::I32])?;
    let scales = parts.need_as(".weight_scale", &FLOATS)?;
    let shape = parts.need_as(".weight_shape", &[Dtype::I64, Dtype::I32])?;
    let zeros = settings.zero_points(parts)?;
    let order = parts.find(".weight_g_idx");
    parts.leave_ends(&[".input_scale", ".input_zero_point", ".input_global_scale"]);
    let bits = settings.bits;
    let [rows, width] = matrix(&words)?;
    let [declared_rows, columns] =
        sizes(&shape)?.unwrap_or([rows, unfetched_columns(&scales, settings, width)]);
    let packing = Packing::of(columns, bits, width).filter(|_| declared_rows == rows);
    let packing = packing.ok_or_else(|| wrong_packing(&words, &shape, [declared_rows, columns], bits))?;
    let group = settings.width(columns);
    let zeros = match zeros {
        None => Zeros::Same((1u32 << (bits - 1)) as f32),
        Some(zeros) => {
            let zeros = super::parts::of_type(zeros, &[Dtype::I32])?;
            of_shape(&zeros, &[packing.words(rows, bits), columns.div_ceil(group)])?;
            Zeros::Columns { words: zeros, bits, packing }
        }
    };
    let mut grid = Grid::by_row(scales, zeros, [rows, columns], group)?;
    let mut conditions = vec![Condition::not_zero(&shape)];
    if let Some(order) = order {
        grid.order = read_order(&order, columns, group)?;
        conditions.extend((columns > group).then(|| Condition::not_zero(&order)));
    }
    let form = if grid.order.is_some() { "packed, act-order" } else { "packed" };
    let mut layer = Integers { codes: Codes::Rows(words, packing), grid, rows, columns, bits }.layer(form);
    layer.conditions.extend(conditions);
    Ok(layer)
}

/// Makes the error of `words` that do not hold the numbers of as many rows and columns as the tensor `shape` says, or may hold
/// them in two ways.
fn wrong_packing(words: &Stored, shape: &Stored, [rows, columns]: [usize; 2], bits: u32) -> Error {
    if let &[found_rows, width] = words.shape()
        && found_rows == rows
        && Packing::is_ambiguous(columns, bits, width)
    {
        return words
            .error(format!("{columns} numbers of {bits} bits lie in {width} words in either of two ways"))
            .hint("quantize the model again with compressed-tensors 0.18 or later and rows of whole groups of 32");
    }
    words
        .error(format!(
            "shape {:?} holds no {rows} x {columns} numbers of {bits} bits, as `{}` says",
            words.shape(),
            shape.name
        ))
        .hint("config.json and the weights do not belong together, or the file is damaged")
}

/// Returns the columns of a layer whose sizes were not fetched: those of its groups, or as many as its words hold.
fn unfetched_columns(scales: &Stored, settings: Integer, width: usize) -> usize {
    let Integer { bits, group, .. } = settings;
    let of_groups = match (group, scales.shape()) {
        (Some(group), &[_, groups]) => groups.checked_mul(group),
        _ => None,
    };
    let of_groups = of_groups.filter(|&columns| Packing::of(columns, bits, width).is_some());
    of_groups.unwrap_or(width.saturating_mul(32) / bits as usize)
}

/// Reads rows and columns from a tensor that holds them; `None` where values were not fetched.
fn sizes(shape: &Stored) -> Result<Option<[usize; 2]>> {
    of_shape(shape, &[2])?;
    let bytes = shape.all_bytes();
    let size = shape.dtype().size();
    let number = |index: usize| {
        let part = &bytes[index * size..(index + 1) * size];
        match *part {
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => part.first_chunk().map_or(-1, |bytes| i64::from_le_bytes(*bytes)),
        }
    };
    let sizes = [number(0), number(1)];
    if sizes == [0, 0] {
        return Ok(None);
    }
    match sizes.map(|size| usize::try_from(size).ok().filter(|&size| size > 0 && size < 1 << 31)) {
        [Some(rows), Some(columns)] => Ok(Some([rows, columns])),
        _ => Err(shape.error(format!("holds {sizes:?}, which are no sizes of a matrix"))),
    }
}

/// Reads the group of each column, where there are `width` in a group; `None` where they follow one another.
pub(crate) fn read_order(order: &Stored, columns: usize, width: usize) -> Result<Option<Vec<u32>>> {
    of_shape(order, &[columns])?;
    if order.dtype() != Dtype::I32 {
        return Err(order.error(format!("is {}, expected int32", order.dtype())));
    }
    let numbers = order.words(0..columns);
    let groups = columns.div_ceil(width);
    // Some tools leave -1 everywhere where nothing is reordered.
    let in_turn = |(column, &group): (usize, &u32)| group as usize == column / width;
    let is_all = |number: u32| numbers.iter().all(|&group| group == number);
    // All zero where values were not fetched: a condition sees to it that they are not where they are needed.
    if numbers.iter().enumerate().all(in_turn) || is_all(u32::MAX) || is_all(0) {
        return Ok(None);
    }
    match numbers.iter().find(|&&group| group as usize >= groups) {
        Some(&group) => {
            Err(damaged(order, format!("names group {}, there are {groups}", group.cast_signed())))
        }
        None => Ok(Some(numbers)),
    }
}
