//! Quantized layers of MLX's form as rows of float32, decoded as they are read.

use rayon::prelude::*;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::formats::backing::{Made, Make};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::entry::{Entry, Incoming};
use crate::formats::stored::Stored;
use crate::numerics::affine::{FloatType, Quantized};
use crate::numerics::dtype::{Dtype, float_type};
use crate::numerics::nearest;
use crate::numerics::quant::{Mode, Quant};

/// Bytes of values that one thread decodes at a time.
const CHUNK_BYTES: usize = 1 << 18;

#[derive(Debug)]
struct Decoded {
    parts: Quantized<Option<Stored>>,
    quant: Quant,
    /// Type of affine scales and biases.
    stored: FloatType,
    rows: usize,
    columns: usize,
}

impl Checkpoint {
    /// Puts the values of a quantized layer, in float32, in the place of its codes. `layer` has the names of its tensors; the
    /// biases' is empty in modes that have none.
    pub(crate) fn decode(&mut self, layer: Quantized<&str>, quant: Quant) -> Result<()> {
        let missing = |name: &str| Error::tensor(self.path(), name, "missing");
        let find = |name: &str| Stored::of(self, name).ok_or_else(|| missing(name));
        let (packed, scales) = (find(layer.packed)?, find(layer.scales)?);
        let is_affine = quant.mode == Mode::Affine;
        let biases = if is_affine { Some(find(layer.biases)?) } else { None };
        let (leading, groups) = split(scales.shape());
        let columns = groups * quant.group_size as usize;
        let expected = quant.packed_columns(columns).map(|words| [leading, &[words]].concat());
        let types = if is_affine { float_type(scales.dtype()) } else { Ok(FloatType::F32) };
        let agrees = |biases: &Stored| (biases.dtype(), biases.shape()) == (scales.dtype(), scales.shape());
        let is_sound = packed.dtype() == Dtype::U32
            && expected.as_deref() == Some(packed.shape())
            && (is_affine || scales.dtype() == Dtype::U8)
            && biases.as_ref().is_none_or(agrees);
        let (true, Ok(stored)) = (is_sound, types) else {
            return Err(packed
                .error(format!("is {} {:?}, which {quant} cannot be", packed.dtype(), packed.shape()))
                .hint("config.json and the weights do not belong together"));
        };
        let shape = [leading, &[columns]].concat();
        let bytes = packed.byte_len() + scales.byte_len() + biases.as_ref().map_or(0, Stored::byte_len);
        let values = shape.iter().product::<usize>();
        let entry = &self.entries[layer.packed];
        let (form, parts) = (entry.incoming.map_or("mlx", |incoming| incoming.form), entry.parts.clone());
        let bytes_per_value = bytes as f64 / values.max(1) as f64;
        let incoming = Some(Incoming { form, quant: None, bytes_per_value });
        let path = packed.path().to_owned();
        let rows = leading.iter().product();
        let quantized = Quantized { packed: Some(packed), scales: Some(scales), biases };
        let made = Made {
            row_bytes: columns * 4,
            rows: Box::new(Decoded { parts: quantized, quant, stored, rows, columns }),
        };
        let file = self.add_made(&path, made);
        let entry = Entry { parts, incoming, ..Entry::new(file, Dtype::F32, shape, [0, values * 4]) };
        for name in [layer.scales, layer.biases] {
            self.entries.remove(name);
        }
        self.entries.insert(layer.packed.to_owned(), entry);
        Ok(())
    }
}

/// Returns the sizes before the last, and the last.
fn split(shape: &[usize]) -> (&[usize], usize) {
    shape.split_last().map_or((&[], 1), |(last, leading)| (leading, *last))
}

impl Make for Decoded {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let step = (CHUNK_BYTES / (self.columns * 4)).max(1);
        out.par_chunks_mut(step * self.columns * 4).enumerate().for_each(|(chunk, out)| {
            let first = rows.start + chunk * step;
            let count = out.len() / (self.columns * 4);
            let part = |stored: &Option<Stored>| match stored {
                Some(stored) => {
                    let row = stored.len() / self.rows;
                    let range = first * row..(first + count) * row;
                    let bytes = stored.bytes(range.clone()).into_owned();
                    stored.release(range);
                    bytes
                }
                None => Vec::new(),
            };
            let Quantized { packed, scales, biases } = &self.parts;
            let parts = Quantized { packed: part(packed), scales: part(scales), biases: part(biases) };
            let mut values = vec![0.0f32; count * self.columns];
            // Lengths were checked when this was set up.
            let decoded = nearest::dequantize(parts.as_slices(), self.quant, self.stored, &mut values);
            debug_assert!(decoded.is_ok(), "{decoded:?}");
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
        });
    }
}
