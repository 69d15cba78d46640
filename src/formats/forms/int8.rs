//! Signed bytes with a scale for each row or group: compressed-tensors' int-quantized, and bitsandbytes' eight bits.

use super::declared::Integer;
use super::grid::{Grid, Zeros};
use super::integers::{Codes, Integers};
use super::layer::Layer;
use super::parts::{FLOATS, Parts, matrix, of_shape, of_type};
use crate::error::Result;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Code of the byte 0.
const MIDDLE: f32 = 128.0;

/// Reads a layer of compressed-tensors at `parts.path`.
pub(crate) fn read_compressed(settings: Integer, parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as(".weight", &[Dtype::I8])?;
    let scales = parts.need_as(".weight_scale", &FLOATS)?;
    let zeros = settings.zero_points(parts)?;
    parts.leave_ends(&[".input_scale", ".input_zero_point"]);
    let [rows, columns] = matrix(&codes)?;
    let group = settings.width(columns);
    let zeros = match zeros {
        None => Zeros::Same(MIDDLE),
        Some(zeros) => {
            let bytes = of_type(zeros, &[Dtype::I8])?;
            of_shape(&bytes, &[rows, columns.div_ceil(group)])?;
            Zeros::Signed { bytes, plus: MIDDLE }
        }
    };
    let grid = Grid::by_row(scales, zeros, [rows, columns], group)?;
    Ok(Integers { codes: Codes::Signed(codes), grid, rows, columns, bits: 8 }.layer("int8"))
}

/// Reads a layer of bitsandbytes at `parts.path`: w = code * SCB / 127.
pub(crate) fn read_bitsandbytes(parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as(".weight", &[Dtype::I8])?;
    let scales = parts.need_as(".SCB", &[Dtype::F32])?;
    if let Some(format) = parts.find(".weight_format") {
        refuse_reordered(&format)?;
    }
    let [rows, columns] = matrix(&codes)?;
    of_shape(&scales, &[rows])?;
    let grid = Grid {
        scales,
        zeros: Zeros::Same(MIDDLE),
        by_group: false,
        rows,
        groups: 1,
        width: columns,
        order: None,
        factor: 1.0 / 127.0,
    };
    Ok(Integers { codes: Codes::Signed(codes), grid, rows, columns, bits: 8 }.layer("int8, bitsandbytes"))
}

/// Fails unless the bytes lie row by row, which is format 0.
fn refuse_reordered(format: &Stored) -> Result<()> {
    let bytes = format.all_bytes();
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    Err(format
        .error("names an order of bytes for one kind of GPU, and only rows are read")
        .hint("save the model again with a newer bitsandbytes, which stores rows"))
}
