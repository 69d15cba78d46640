//! Latent codes: float positions among the values that a code can stand for, in steps from one value to the next. The
//! nearest code is the one in force.

use rayon::prelude::*;

use super::affine::{pack, unpack};
use super::quant::{Mode, Quant};

/// Codes that one task handles: a multiple of eight, which make whole bytes.
const TASK: usize = 1 << 14;

/// Codes of a setting in the order of what they stand for. Affine codes are their own positions; a code of a small float is a
/// sign and a magnitude, and both of its zeros have one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    bits: u32,
    /// Largest magnitude of small floats that is a number.
    largest: Option<u8>,
}

impl Order {
    const fn of(quant: Quant) -> Self {
        let largest = match quant.mode {
            Mode::Affine => None,
            Mode::Mxfp4 | Mode::Nvfp4 => Some(0x7),
            Mode::Mxfp8 => Some(0x7e),
        };
        Self { bits: quant.bits, largest }
    }

    const fn highest(self) -> u8 {
        match self.largest {
            Some(largest) => 2 * largest,
            None => ((1_u32 << self.bits) - 1) as u8,
        }
    }

    const fn code(self, position: u8) -> u8 {
        match self.largest {
            Some(largest) if position < largest => self.sign() | (largest - position),
            Some(largest) => position - largest,
            None => position,
        }
    }

    fn position(self, code: u8) -> u8 {
        let Some(largest) = self.largest else { return code };
        let magnitude = (code & !self.sign()).min(largest);
        if code & self.sign() == 0 { largest + magnitude } else { largest - magnitude }
    }

    const fn sign(self) -> u8 {
        1 << (self.bits - 1)
    }
}

/// Returns the position of the highest value that a code of `quant` can stand for; the lowest has position 0.
pub fn highest_latent(quant: Quant) -> f32 {
    f32::from(Order::of(quant).highest())
}

/// Packs the codes that are nearest to the `latents`, as MLX stores them. The number of latents must be a multiple of 8, as it
/// is in rows of whole groups.
pub fn pack_latents(latents: &[f32], quant: Quant) -> Vec<u8> {
    let (order, bits) = (Order::of(quant), quant.bits);
    let highest = highest_latent(quant);
    let mut packed = vec![0; latents.len() * bits as usize / 8];
    let tasks = packed.par_chunks_mut(TASK / 8 * bits as usize).zip(latents.par_chunks(TASK));
    tasks.for_each_init(Vec::new, |codes, (packed, latents)| {
        codes.clear();
        codes.extend(latents.iter().map(|latent| order.code(latent.clamp(0.0, highest).round() as u8)));
        pack(codes, bits, packed);
    });
    packed
}

/// Returns the latents that lie on the `packed` codes.
pub fn unpack_latents(packed: &[u8], quant: Quant) -> Vec<f32> {
    let (order, bits) = (Order::of(quant), quant.bits);
    let mut latents = vec![0.0; packed.len() * 8 / bits as usize];
    let tasks = latents.par_chunks_mut(TASK).zip(packed.par_chunks(TASK / 8 * bits as usize));
    tasks.for_each_init(Vec::new, |codes, (latents, packed)| {
        codes.resize(latents.len(), 0);
        unpack(packed, bits, codes);
        latents.iter_mut().zip(codes).for_each(|(latent, code)| *latent = f32::from(order.position(*code)));
    });
    latents
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::microscaling::{E2M1, E4M3};
    use super::*;
    use crate::numerics::quant::AFFINE_BITS;

    fn settings() -> impl Iterator<Item = Quant> {
        AFFINE_BITS.into_iter().map(|bits| Quant::affine(bits, 64)).chain(Mode::ALL.map(Mode::default_quant))
    }

    #[test]
    fn latents_give_the_nearest_codes() {
        let mut rng = fastrand::Rng::with_seed(9);
        for quant in settings() {
            let highest = highest_latent(quant);
            // More than one task, and latents beyond the range at both ends.
            let latents: Vec<f32> = (0..TASK + 72).map(|_| rng.f32() * (highest + 2.0) - 1.0).collect();
            let codes = unpack_latents(&pack_latents(&latents, quant), quant);
            assert_eq!(codes.len(), latents.len());
            for (latent, code) in latents.iter().zip(&codes) {
                let nearest = latent.clamp(0.0, highest);
                assert!((nearest - code).abs() <= 0.5, "{quant}: {latent} became {code}");
            }
            assert_eq!(unpack_latents(&pack_latents(&codes, quant), quant), codes);
        }
    }

    #[test]
    fn positions_are_in_the_order_of_values() {
        for (mode, table) in [(Mode::Mxfp4, &E2M1[..]), (Mode::Nvfp4, &E2M1), (Mode::Mxfp8, &E4M3)] {
            let order = Order::of(mode.default_quant());
            let values: Vec<f32> =
                (0..=order.highest()).map(|at| table[usize::from(order.code(at))]).collect();
            assert!(values.is_sorted_by(|a, b| a < b), "{mode}: {values:?}");
            let numbers = (0..table.len()).filter(|code| table[*code].is_finite()).count();
            assert_eq!(values.len(), numbers - 1, "{mode}: all but the second zero");
            for at in 0..=order.highest() {
                assert_eq!(order.position(order.code(at)), at, "{mode}");
            }
            assert_eq!(order.position(order.sign()), order.largest.unwrap(), "{mode}: minus zero");
        }
    }
}
