//! NVFP4: two codes of E2M1 in a byte, the lower first, a scale of E4M3 for 16 columns, and one of float32 for all. MLX's nvfp4
//! lacks the last, so layers are decoded.

use rayon::prelude::*;
use std::ops::Range;

use super::condition::Condition;
use super::layer::{Layer, Values};
use super::parts::{Parts, matrix, of_shape};
use crate::error::Result;
use crate::formats::backing::Make;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;
use crate::numerics::microscaling::E2M1;

/// Columns that share a scale.
const GROUP: usize = 16;

/// Names of the tensors of a layer, which two tools call differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// `weight`, and `weight_scale_2`, by which scales are multiplied.
    ModelOpt,
    /// `weight_packed`, and `weight_global_scale`, by which scales are divided.
    Compressed,
}

#[derive(Debug)]
struct Nvfp4 {
    codes: Stored,
    scales: Stored,
    /// Factor on each scale, or what it is divided by.
    whole: Stored,
    divides: bool,
}

/// Reads the layer at `parts.path`.
pub(crate) fn read(names: Names, parts: &mut Parts<'_>) -> Result<Layer> {
    let (weight, whole) = match names {
        Names::ModelOpt => (".weight", ".weight_scale_2"),
        Names::Compressed => (".weight_packed", ".weight_global_scale"),
    };
    let codes = parts.need_as(weight, &[Dtype::U8])?;
    let scales = parts.need_as(".weight_scale", &[Dtype::F8E4M3])?;
    let whole = parts.need_as(whole, &[Dtype::F32])?;
    parts.leave_ends(&[".input_scale", ".input_global_scale"]);
    let [rows, bytes] = matrix(&codes)?;
    let columns = bytes * 2;
    if !columns.is_multiple_of(GROUP) {
        return Err(codes.error(format!("shape {:?} holds no rows of whole groups of 16", codes.shape())));
    }
    of_shape(&scales, &[rows, columns / GROUP])?;
    if whole.len() != 1 {
        return Err(whole.error(format!("shape {:?}, expected one number", whole.shape())));
    }
    let conditions = vec![Condition::scales(&scales), Condition::scales(&whole)];
    let divides = names == Names::Compressed;
    let values = Values::Floats(Box::new(Nvfp4 { codes, scales, whole, divides }));
    Ok(Layer { form: "nvfp4", shape: vec![rows, columns], values, conditions })
}

impl Make for Nvfp4 {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let bytes = self.codes.shape()[1];
        let groups = bytes * 2 / GROUP;
        let range = rows.start * bytes..rows.end * bytes;
        let codes = self.codes.bytes(range.clone());
        let scales = self.scales.values(rows.start * groups..rows.end * groups);
        let whole = self.whole.all_values()[0];
        let parts = codes.par_chunks(GROUP / 2).zip(&scales);
        out.par_chunks_mut(GROUP * 4).zip(parts).for_each(|(out, (codes, scale))| {
            let scale = if self.divides { scale / whole } else { scale * whole };
            let values = codes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            let values = values.map(|code| E2M1[usize::from(code)] * scale);
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
        });
        self.codes.release(range);
    }
}
