//! Work of one rayon task: a block of groups. The error is the number of the first group that is not finite.

use super::kernel::{encode, round_to_nearest_grid, snap};
use super::pack::pack;
use super::rows::{Layout, Quantized};
use crate::numerics::wide::Kernel;

/// Weights (bytes of type `source`) to codes, scales and biases.
pub(crate) struct QuantizeBlock<'a> {
    pub weights: &'a [u8],
    pub source: super::dtype::FloatType,
    pub layout: Layout,
    pub out: Quantized<&'a mut [u8]>,
}

impl Kernel for QuantizeBlock<'_> {
    type Output = Result<(), usize>;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn run<const GROUP: usize>(self) -> Result<(), usize> {
        let Layout { bits, dtype, .. } = self.layout;
        let width = dtype.bytes();
        let mut group = [0.0; GROUP];
        let mut codes = [0; GROUP];
        let floats = self.out.scales.chunks_exact_mut(width).zip(self.out.biases.chunks_exact_mut(width));
        let outputs = self.out.packed.chunks_exact_mut(self.layout.group_bytes()).zip(floats);
        let inputs = self.weights.chunks_exact(GROUP * self.source.bytes());
        for (i, (bytes, (packed, (scale, bias)))) in inputs.zip(outputs).enumerate() {
            self.source.widen(bytes, &mut group);
            if self.source != dtype {
                dtype.round_all(&mut group);
            }
            let grid = round_to_nearest_grid(&group, bits).ok_or(i)?;
            encode(&group, grid, bits, &mut codes);
            pack(&codes, bits, packed);
            dtype.narrow(&[grid.scale], scale);
            dtype.narrow(&[grid.bias], bias);
        }
        Ok(())
    }
}

/// Calls `write(weights, snapped, out)` for every group, where `snapped` is what quantization leaves of it.
pub(crate) struct SnapBlock<'a, F> {
    pub weights: &'a [f32],
    pub layout: Layout,
    pub out: &'a mut [f32],
    pub write: F,
}

impl<F: Fn(&[f32], &[f32], &mut [f32])> Kernel for SnapBlock<'_, F> {
    type Output = Result<(), usize>;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn run<const GROUP: usize>(self) -> Result<(), usize> {
        let outputs = self.out.as_chunks_mut::<GROUP>().0;
        for (i, (group, out)) in self.weights.as_chunks::<GROUP>().0.iter().zip(outputs).enumerate() {
            let mut snapped = *group;
            self.layout.dtype.round_all(&mut snapped);
            let grid = round_to_nearest_grid(&snapped, self.layout.bits).ok_or(i)?;
            snap(&mut snapped, grid, self.layout.stored(grid), self.layout.bits);
            (self.write)(group, &snapped, out);
        }
        Ok(())
    }
}
