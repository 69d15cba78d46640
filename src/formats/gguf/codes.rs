//! Matrices of blocks as layers of MLX with the same numbers, or as values in float32.

use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

use super::blocks;
use super::rows::Rows;
use crate::files::gguf::kind::Kind;
use crate::formats::backing::Make;
use crate::formats::forms::{Condition, Layer, Part, Values, shared};
use crate::numerics::affine::pack;
use crate::numerics::dtype::{Dtype, push_f32};
use crate::numerics::quant::{Mode, Quant};

/// Matrix of blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) rows: Rows,
    pub(super) kind: Kind,
    pub(super) columns: usize,
}

/// Returns MLX's setting with the same numbers as `kind`.
fn quant(kind: Kind) -> Option<Quant> {
    match kind {
        Kind::Q4_0 | Kind::Q4_1 => Some(Quant::affine(4, 32)),
        Kind::Q5_0 | Kind::Q5_1 => Some(Quant::affine(5, 32)),
        Kind::Q8_0 => Some(Quant::affine(8, 32)),
        Kind::Mxfp4 => Some(Mode::Mxfp4.default_quant()),
        _ => None,
    }
}

impl Blocks {
    /// Returns the layer of `shape`: MLX's if it has the same numbers and `stays` coded, and else its values.
    pub(super) fn layer(self, shape: Vec<usize>, stays: bool) -> Layer {
        let kind = self.kind;
        let scales = Box::new(move |block: &[u8]| blocks::scales(kind, block));
        let conditions = vec![Condition::blocks(&self.rows.stored, kind.bytes(), scales)];
        let all = Arc::new(self);
        let values = match quant(kind).filter(|_| stays) {
            None => Values::Floats(shared(&all, Decoded)),
            Some(quant) => {
                let codes = Part::Made(Dtype::U32, shared(&all, |of| Packed { of, bits: quant.bits }));
                let numbers =
                    |part: GroupPart| Part::Made(part.dtype(), shared(&all, |of| Groups { of, part }));
                let (scales, biases) = match quant.mode {
                    Mode::Affine => (numbers(GroupPart::Scale), Some(numbers(GroupPart::Bias))),
                    _ => (numbers(GroupPart::Exponent), None),
                };
                Values::Mlx { quant, codes, scales, biases }
            }
        };
        Layer { form: kind.name(), shape, values, conditions }
    }
}

/// Values in float32.
#[derive(Debug)]
struct Decoded(Arc<Blocks>);

impl Make for Decoded {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let Blocks { rows: stored, kind, columns } = &*self.0;
        let loaded = stored.load(&rows);
        out.par_chunks_mut(columns * 4).zip(rows).for_each_init(
            || vec![0.0; *columns],
            |values, (out, row)| {
                blocks::decode(*kind, loaded.row(row), values);
                out.as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(&*values)
                    .for_each(|(out, value)| *out = value.to_le_bytes());
            },
        );
    }
}

/// Codes as MLX packs them.
#[derive(Debug)]
struct Packed {
    of: Arc<Blocks>,
    bits: u32,
}

impl Make for Packed {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let Blocks { rows: stored, kind, columns } = &*self.of;
        let loaded = stored.load(&rows);
        let bits = self.bits as usize;
        out.par_chunks_mut(columns * bits / 8).zip(rows).for_each(|(out, row)| {
            let blocks = loaded.row(row).chunks_exact(kind.bytes());
            for (block, out) in blocks.zip(out.chunks_exact_mut(kind.block() * bits / 8)) {
                let mut codes = [0; 32];
                blocks::codes(*kind, block, &mut codes);
                pack(&codes, self.bits, out);
            }
        });
    }
}

/// Number of each group in a layer of MLX.
#[derive(Debug, Clone, Copy)]
enum GroupPart {
    Scale,
    Bias,
    /// Power of two, as E8M0.
    Exponent,
}

impl GroupPart {
    /// Returns the type in which the numbers are exact: biases are a power of two times the scale, or a float16 of the file.
    fn dtype(self) -> Dtype {
        if matches!(self, Self::Exponent) { Dtype::U8 } else { Dtype::F16 }
    }
}

/// Scales or biases of MLX's groups.
#[derive(Debug)]
struct Groups {
    of: Arc<Blocks>,
    part: GroupPart,
}

impl Make for Groups {
    fn make(&self, rows: Range<usize>, out: &mut [u8]) {
        let Blocks { rows: stored, kind, .. } = &*self.of;
        let loaded = stored.load(&rows);
        let mut bytes = Vec::with_capacity(out.len());
        for row in rows {
            let blocks = loaded.row(row).chunks_exact(kind.bytes());
            match self.part {
                GroupPart::Exponent => bytes.extend(blocks.map(|block| block[0])),
                GroupPart::Scale => blocks.for_each(|block| bytes.extend_from_slice(&block[..2])),
                GroupPart::Bias => {
                    let bias = |block: &[u8]| match blocks::middle(*kind) {
                        Some(middle) => -middle * blocks::half(block, 0),
                        None => blocks::half(block, 2),
                    };
                    push_f32(&blocks.map(bias).collect::<Vec<_>>(), Dtype::F16, &mut bytes);
                }
            }
        }
        out.copy_from_slice(&bytes);
    }
}
