//! Numbers of a few bits in words of 32, lowest bits first.

/// Way in which numbers lie in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// One stream of bits: a number may begin in one word and end in the next.
    Stream,
    /// Whole numbers only; bits at the end of a word are left over.
    WholeNumbers,
}

impl Packing {
    /// Finds the way in which `count` numbers of `bits` bits take `words` words. Where both ways do, they are one and the same, or
    /// nobody can tell, which is `None` too.
    pub(crate) fn of(count: usize, bits: u32, words: usize) -> Option<Self> {
        let fits = |packing: Self| packing.words(count, bits) == words;
        let is_same = 32u32.is_multiple_of(bits) || count <= 32 / bits as usize;
        match (fits(Self::Stream), fits(Self::WholeNumbers)) {
            (true, true) => is_same.then_some(Self::Stream),
            (true, false) => Some(Self::Stream),
            (false, true) => Some(Self::WholeNumbers),
            (false, false) => None,
        }
    }

    /// True if `count` numbers of `bits` bits take `words` words in both ways, and these differ.
    pub(crate) fn is_ambiguous(count: usize, bits: u32, words: usize) -> bool {
        let fits = |packing: Self| packing.words(count, bits) == words;
        fits(Self::Stream) && fits(Self::WholeNumbers) && Self::of(count, bits, words).is_none()
    }

    /// Returns the number of words that `count` numbers of `bits` bits take.
    pub(crate) fn words(self, count: usize, bits: u32) -> usize {
        let bits = bits as usize;
        match self {
            Self::Stream => (count / 32 * bits).saturating_add((count % 32 * bits).div_ceil(32)),
            Self::WholeNumbers => count.div_ceil(32 / bits),
        }
    }

    /// Reads the number at `index` from words that `word` reads.
    pub(crate) fn number(self, index: usize, bits: u32, word: impl Fn(usize) -> u32) -> u32 {
        let mask = (1u32 << bits) - 1;
        let (at, shift) = match self {
            Self::Stream => (index * bits as usize / 32, (index * bits as usize % 32) as u32),
            Self::WholeNumbers => {
                let per_word = 32 / bits as usize;
                (index / per_word, (index % per_word) as u32 * bits)
            }
        };
        let mut value = u64::from(word(at));
        if shift + bits > 32 {
            value |= u64::from(word(at + 1)) << 32;
        }
        (value >> shift) as u32 & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs numbers by the definition, bit by bit.
    fn packed(numbers: &[u32], bits: u32, packing: Packing) -> Vec<u32> {
        let mut words = vec![0; packing.words(numbers.len(), bits)];
        for (index, number) in numbers.iter().enumerate() {
            for bit in 0..bits as usize {
                let place = match packing {
                    Packing::Stream => index * bits as usize + bit,
                    Packing::WholeNumbers => {
                        let per_word = 32 / bits as usize;
                        index / per_word * 32 + index % per_word * bits as usize + bit
                    }
                };
                words[place / 32] |= (number >> bit & 1) << (place % 32);
            }
        }
        words
    }

    #[test]
    fn numbers_of_every_width_are_read() {
        for bits in 1..=8 {
            let all: Vec<u32> = (0..200u32).map(|i| (i * 7919 + i / 13) % (1 << bits)).collect();
            for count in [1, 31, 32, 33, 64, 160, 200] {
                for packing in [Packing::Stream, Packing::WholeNumbers] {
                    let words = packed(&all[..count], bits, packing);
                    let read = (0..count).map(|index| packing.number(index, bits, |at| words[at]));
                    assert!(read.eq(all[..count].iter().copied()), "{bits} {count} {packing:?}");
                }
            }
        }
    }

    #[test]
    fn widths_tell_how_numbers_lie() {
        for (count, bits, words, expected) in [
            (64, 3, 6, Some(Packing::Stream)),
            (64, 3, 7, Some(Packing::WholeNumbers)),
            (32, 5, 5, Some(Packing::Stream)),
            (32, 7, 8, Some(Packing::WholeNumbers)),
            (64, 4, 8, Some(Packing::Stream)),
            (10, 3, 1, Some(Packing::Stream)),
            // Two words either way, but not the same ones.
            (20, 3, 2, None),
            (64, 3, 5, None),
            (usize::MAX, 8, 1, None),
        ] {
            assert_eq!(Packing::of(count, bits, words), expected, "{count} {bits} {words}");
        }
        assert!(Packing::is_ambiguous(20, 3, 2) && !Packing::is_ambiguous(64, 3, 5));
    }
}
