//! bitsandbytes' NF4 and FP4: codes of a table with sixteen values, the higher half of a byte first, and a factor for blocks of the
//! flattened matrix, which may be quantized itself. No mode of MLX has such a table, so layers are decoded.

use rayon::prelude::*;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;

use super::condition::{Condition, damaged};
use super::layer::{Layer, Values};
use super::parts::{Parts, of_shape};
use crate::error::Result;
use crate::files::json;
use crate::formats::backing::Make;
use crate::formats::stored::Stored;
use crate::numerics::dtype::Dtype;

/// Ends of the names of the tensor with sizes and settings, after the weight's name.
pub(crate) const STATES: [&str; 2] = [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"];

/// End of the name of the tensor with the factors, after the weight's name.
pub(crate) const FACTORS: &str = ".absmax";

#[derive(Debug)]
struct Table {
    codes: Stored,
    columns: usize,
    /// Values of the codes.
    values: [f32; 16],
    /// Values that share a factor.
    block: usize,
    factors: Factors,
}

/// Factor of each block.
#[derive(Debug)]
enum Factors {
    Floats(Box<Stored>),
    Nested(Box<Nested>),
}

/// Factors that are codes of a table themselves, with a factor for blocks of them and a shift for all.
#[derive(Debug)]
struct Nested {
    codes: Stored,
    values: Vec<f32>,
    factors: Stored,
    block: usize,
    shift: f32,
}

/// Reads the layer whose weight is called `parts.path`.
pub(crate) fn read(parts: &mut Parts<'_>) -> Result<Layer> {
    let codes = parts.need_as("", &[Dtype::U8])?;
    let found = STATES.iter().zip(["nf4", "fp4"]).find_map(|(end, form)| Some((parts.find(end)?, form)));
    let (state, form) = match found {
        Some(found) => found,
        None => (parts.need(STATES[0])?, "nf4"),
    };
    let settings = Settings::read(&state)?;
    let [rows, columns] = settings.shape;
    let count = rows.checked_mul(columns).filter(|count| *count > 0);
    if count != codes.len().checked_mul(2) {
        return Err(codes.error(format!(
            "holds {} numbers, `{}` says {rows} x {columns}",
            codes.len() * 2,
            state.name
        )));
    }
    let blocks = (codes.len() * 2).div_ceil(settings.block);
    let absmax = parts.need(FACTORS)?;
    of_shape(&absmax, &[blocks])?;
    let map = parts.need_as(".quant_map", &[Dtype::F32])?;
    of_shape(&map, &[16])?;
    let mut values = [0.0; 16];
    values.copy_from_slice(&map.all_values());
    let mut conditions = vec![Condition::scales(&map)];
    let factors = match settings.nested {
        None => {
            let factors = super::parts::of_type(absmax, &[Dtype::F32])?;
            conditions.push(Condition::scales(&factors));
            Factors::Floats(Box::new(factors))
        }
        Some((block, shift)) => {
            let codes = super::parts::of_type(absmax, &[Dtype::U8])?;
            let factors = parts.need_as(".nested_absmax", &[Dtype::F32])?;
            let map = parts.need_as(".nested_quant_map", &[Dtype::F32])?;
            of_shape(&factors, &[blocks.div_ceil(block)])?;
            of_shape(&map, &[256])?;
            conditions.extend([Condition::scales(&factors), Condition::scales(&map)]);
            let values = map.all_values();
            Factors::Nested(Box::new(Nested { codes, values, factors, block, shift }))
        }
    };
    let table = Table { codes, columns, values, block: settings.block, factors };
    Ok(Layer { form, shape: vec![rows, columns], values: Values::Floats(Box::new(table)), conditions })
}

/// Sizes and settings of a layer, which lie beside it as JSON in bytes.
struct Settings {
    shape: [usize; 2],
    block: usize,
    /// Block size and shift of quantized factors.
    nested: Option<(usize, f32)>,
}

impl Settings {
    fn read(state: &Stored) -> Result<Self> {
        let wrong = |what: &str| damaged(state, format!("is JSON of a layer's settings, and {what}"));
        if state.dtype() != Dtype::U8 {
            return Err(state.error(format!("is {}, expected uint8", state.dtype())));
        }
        let text = state.all_bytes();
        if text.iter().all(|byte| *byte == 0) {
            return Err(state.error("is empty, and a layer's sizes are in it").hint(
                "of a model on the Hub headers alone are read here: download the model, and give its folder",
            ));
        }
        let value = json::parse(Path::new(&state.name), &text).map_err(|_| wrong("cannot be read"))?;
        let size = |value: &Value| json::as_u64(value).and_then(|size| usize::try_from(size).ok());
        let shape = value.get("shape").and_then(Value::as_array);
        let shape: Option<Vec<usize>> = shape.and_then(|sizes| sizes.iter().map(size).collect());
        let shape = shape.and_then(|sizes| <[usize; 2]>::try_from(sizes).ok());
        let shape = shape.ok_or_else(|| wrong("its `shape` is none of a matrix"))?;
        let block = |key: &str| {
            let block = value.get(key).and_then(size).filter(|block| (1..=1 << 20).contains(block));
            block.ok_or_else(|| wrong(&format!("its `{key}` is no number of values")))
        };
        let nested = match value.get("nested_offset").filter(|shift| !shift.is_null()) {
            None => None,
            Some(shift) => {
                let shift = json::as_f64(shift).filter(|shift| shift.is_finite());
                let shift = shift.ok_or_else(|| wrong("its `nested_offset` is no number"))?;
                Some((block("nested_blocksize")?, shift as f32))
            }
        };
        Ok(Self { shape, block: block("blocksize")?, nested })
    }
}

impl Factors {
    /// Returns the factors of `blocks`.
    fn load(&self, blocks: Range<usize>) -> Vec<f32> {
        match self {
            Self::Floats(factors) => factors.values(blocks),
            Self::Nested(nested) => {
                let Nested { codes, values, factors, block, shift } = &**nested;
                let first = blocks.start / block;
                let outer = factors.values(first..blocks.end.div_ceil(*block));
                let inner = codes.bytes(blocks.clone());
                let factor = |(&code, index): (&u8, usize)| {
                    values[usize::from(code)] * outer[index / block - first] + shift
                };
                inner.iter().zip(blocks).map(factor).collect()
            }
        }
    }
}

impl Make for Table {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let (start, end) = (rows.start * self.columns, rows.end * self.columns);
        let first = start / self.block;
        let factors = self.factors.load(first..end.div_ceil(self.block));
        let codes = self.codes.bytes(start / 2..end.div_ceil(2));
        out.par_chunks_mut(self.columns * 4).zip(rows).for_each(|(out, row)| {
            let numbers = row * self.columns..;
            for (out, number) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
                let byte = codes[number / 2 - start / 2];
                let code = if number % 2 == 0 { byte >> 4 } else { byte & 15 };
                let value = self.values[usize::from(code)] * factors[number / self.block - first];
                *out = value.to_le_bytes();
            }
        });
        self.codes.release(start / 2..end.div_ceil(2));
    }
}
