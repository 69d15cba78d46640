//! Latent codes: float positions on the grid of a group, in steps of one code. The nearest code is the one in force.

use rayon::prelude::*;

use super::kernel::highest_code;
use super::pack::{pack, unpack};

/// Codes that one task handles: a multiple of eight, which make whole bytes.
const TASK: usize = 1 << 14;

/// Packs the codes of `bits` bits that are nearest to the `latents`, as MLX stores them. The number of latents must be a
/// multiple of 8, as it is in rows of whole groups.
pub fn pack_latents(latents: &[f32], bits: u32) -> Vec<u8> {
    let highest = highest_code(bits);
    let mut packed = vec![0; latents.len() * bits as usize / 8];
    let tasks = packed.par_chunks_mut(TASK / 8 * bits as usize).zip(latents.par_chunks(TASK));
    tasks.for_each_init(Vec::new, |codes, (packed, latents)| {
        codes.clear();
        codes.extend(latents.iter().map(|latent| latent.clamp(0.0, highest).round() as u8));
        pack(codes, bits, packed);
    });
    packed
}

/// Returns the latents that lie on the `packed` codes of `bits` bits.
pub fn unpack_latents(packed: &[u8], bits: u32) -> Vec<f32> {
    let mut latents = vec![0.0; packed.len() * 8 / bits as usize];
    let tasks = latents.par_chunks_mut(TASK).zip(packed.par_chunks(TASK / 8 * bits as usize));
    tasks.for_each_init(Vec::new, |codes, (latents, packed)| {
        codes.resize(latents.len(), 0);
        unpack(packed, bits, codes);
        latents.iter_mut().zip(codes).for_each(|(latent, code)| *latent = f32::from(*code));
    });
    latents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::quant::AFFINE_BITS;

    #[test]
    fn latents_give_the_nearest_codes() {
        for bits in AFFINE_BITS {
            let highest = highest_code(bits);
            let mut rng = fastrand::Rng::with_seed(u64::from(bits));
            // More than one task, the last of them not full, and some beyond the range.
            let latents: Vec<f32> = (0..TASK + 72).map(|_| rng.f32() * (highest + 2.0) - 1.0).collect();
            let codes = unpack_latents(&pack_latents(&latents, bits), bits);
            assert_eq!(codes.len(), latents.len());
            for (latent, code) in latents.iter().zip(&codes) {
                assert!((0.0..=highest).contains(code) && code.fract() == 0.0);
                assert!((code - latent.clamp(0.0, highest)).abs() <= 0.5, "{bits} bits: {latent} is {code}");
            }
            assert_eq!(unpack_latents(&pack_latents(&codes, bits), bits), codes);
        }
    }
}
