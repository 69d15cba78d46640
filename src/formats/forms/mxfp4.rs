//! MXFP4: two codes of E2M1 in a byte, the lower first, and a power of two for 32 columns. MLX has the same bytes.

use super::condition::Condition;
use super::layer::{Layer, Part, Values};
use super::parts::{Parts, of_shape};
use crate::error::Result;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;
use crate::numerics::quant::Mode;

/// Columns that share a scale.
const GROUP: usize = 32;

/// Reads the layer at `parts.path` of compressed-tensors: bytes [rows, columns / 2], scales [rows, columns / 32].
pub(crate) fn read_packed(parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as(".weight_packed", &[Dtype::U8])?;
    let scales = parts.need_as(".weight_scale", &[Dtype::U8, Dtype::F8E8M0])?;
    parts.leave_ends(&[".input_scale", ".input_global_scale", ".weight_global_scale"]);
    let Some((&bytes, leading)) = codes.shape().split_last() else {
        return Err(codes.error("is a single number, expected a matrix"));
    };
    let shape = [leading, &[bytes * 2]].concat();
    layer(codes, scales, shape)
}

/// Reads the matrices of all experts called `parts.path`: bytes [experts, rows, columns / 32, 16], scales without the last axis.
pub(crate) fn read_blocks(parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as("_blocks", &[Dtype::U8])?;
    let scales = parts.need_as("_scales", &[Dtype::U8, Dtype::F8E8M0])?;
    match *codes.shape() {
        [experts, rows, groups, 16] => layer(codes, scales, vec![experts, rows, groups * GROUP]),
        ref shape => Err(codes.error(format!("shape {shape:?}, expected [experts, rows, groups, 16]"))),
    }
}

fn layer(codes: Stored, scales: Stored, shape: Vec<usize>) -> Result<Layer> {
    let columns = shape.last().copied().unwrap_or(0);
    if shape.len() < 2 || shape.contains(&0) || !columns.is_multiple_of(GROUP) {
        return Err(codes.error(format!("shape {:?}, expected rows of whole groups of 32", codes.shape())));
    }
    of_shape(&scales, &[&shape[..shape.len() - 1], &[columns / GROUP]].concat())?;
    let conditions = vec![Condition::exponents(&scales)];
    let values = Values::Mlx {
        quant: Mode::Mxfp4.default_quant(),
        codes: Part::Same(Box::new(codes)),
        scales: Part::Same(Box::new(scales)),
        biases: None,
    };
    Ok(Layer { form: "mxfp4", shape, values, conditions })
}
