//! Codes to bits and back.
//!
//! MLX describes its packing in two ways (`u32` words of 4, 8 or 16 codes; triples and quintuples of bytes for
//! 3, 5 and 6 bits), and in little-endian bytes both are one: a stream of codes, least significant bit first.
//! Eight codes of `bits` bits make exactly `bits` bytes, so everything here works on eight codes in a `u64`.

/// Packs `codes` (each below `2^BITS`) into `packed`; eight codes for every `BITS` bytes, a rest is ignored.
#[inline]
fn pack_bits<const BITS: usize>(codes: &[u8], packed: &mut [u8]) {
    let (codes, _) = codes.as_chunks::<8>();
    for (&eight, out) in codes.iter().zip(packed.as_chunks_mut::<BITS>().0) {
        let mut word = u64::from_le_bytes(eight);
        // Neighbours move together: 8-bit lanes in pairs, then 16-bit, then 32-bit.
        word = join(word, 8, BITS);
        word = join(word, 16, 2 * BITS);
        word = join(word, 32, 4 * BITS);
        out.iter_mut().zip(word.to_le_bytes()).for_each(|(o, byte)| *o = byte);
    }
}

/// The inverse of [`pack_bits`].
#[inline]
fn unpack_bits<const BITS: usize>(packed: &[u8], codes: &mut [u8]) {
    let (codes, _) = codes.as_chunks_mut::<8>();
    for (out, bytes) in codes.iter_mut().zip(packed.as_chunks::<BITS>().0) {
        let mut eight = [0_u8; 8];
        eight.iter_mut().zip(bytes).for_each(|(o, &byte)| *o = byte);
        let mut word = u64::from_le_bytes(eight);
        word = part(word, 32, 4 * BITS);
        word = part(word, 16, 2 * BITS);
        word = part(word, 8, BITS);
        *out = word.to_le_bytes();
    }
}

/// A mask of the lowest `used` bits in every lane of `2 * lane` bits, at an offset of `at`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "folds to a constant")]
const fn lanes(lane: usize, used: usize, at: usize) -> u64 {
    let one = (u64::MAX >> (64 - used)) << at;
    let mut mask = 0;
    let mut shift = 0;
    while shift < 64 {
        mask |= one << shift;
        shift += 2 * lane;
    }
    mask
}

/// Moves the odd lanes down to the `used` bits of their even neighbours.
#[inline(always)]
#[allow(clippy::inline_always, reason = "folds to constants")]
const fn join(word: u64, lane: usize, used: usize) -> u64 {
    word & lanes(lane, used, 0) | (word & lanes(lane, used, lane)) >> (lane - used)
}

/// The inverse of [`join`].
#[inline(always)]
#[allow(clippy::inline_always, reason = "folds to constants")]
const fn part(word: u64, lane: usize, used: usize) -> u64 {
    word & lanes(lane, used, 0) | (word & lanes(lane, used, used)) << (lane - used)
}

/// Packs `codes`, each below `2^bits`, into `packed`: `codes.len() * bits / 8` bytes. The number of codes must
/// be a multiple of 8 and `bits` one of MLX's; what does not fit that is left untouched.
pub fn pack(codes: &[u8], bits: u32, packed: &mut [u8]) {
    match bits {
        2 => pack_bits::<2>(codes, packed),
        3 => pack_bits::<3>(codes, packed),
        4 => pack_bits::<4>(codes, packed),
        5 => pack_bits::<5>(codes, packed),
        6 => pack_bits::<6>(codes, packed),
        8 => pack_bits::<8>(codes, packed),
        _ => {}
    }
}

/// The inverse of [`pack`].
pub fn unpack(packed: &[u8], bits: u32, codes: &mut [u8]) {
    match bits {
        2 => unpack_bits::<2>(packed, codes),
        3 => unpack_bits::<3>(packed, codes),
        4 => unpack_bits::<4>(packed, codes),
        5 => unpack_bits::<5>(packed, codes),
        6 => unpack_bits::<6>(packed, codes),
        8 => unpack_bits::<8>(packed, codes),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::numerics::affine::pack::unpack;
    use proptest::prelude::*;

    use super::pack;
    use crate::numerics::quant::AFFINE_BITS;

    /// The bit stream, bit by bit.
    fn naive(codes: &[u8], bits: u32) -> Vec<u8> {
        let mut packed = vec![0; codes.len() * bits as usize / 8];
        for (i, &code) in codes.iter().enumerate() {
            for bit in 0..bits as usize {
                let at = i * bits as usize + bit;
                packed[at / 8] |= ((code >> bit) & 1) << (at % 8);
            }
        }
        packed
    }

    proptest! {
        #[test]
        fn packs_as_the_naive_and_back(
            codes in prop::collection::vec(any::<u8>(), 0..20).prop_map(|c| c.repeat(8)),
            bits in prop::sample::select(&AFFINE_BITS[..]),
        ) {
            let codes: Vec<u8> = codes.iter().map(|c| c & (u8::MAX >> (8 - bits))).collect();
            let mut packed = vec![0xaa; codes.len() * bits as usize / 8];
            pack(&codes, bits, &mut packed);
            prop_assert_eq!(&packed, &naive(&codes, bits));
            let mut back = vec![0xaa; codes.len()];
            unpack(&packed, bits, &mut back);
            prop_assert_eq!(back, codes);
        }
    }
}
