//! Types of tensors in GGUF: blocks of values with their sizes, as ggml defines them.

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

/// Number in a file, name, values of a block, and bytes of a block.
type Row = (u32, &'static str, usize, usize);

impl Kind {
    /// All types that are read.
    pub const ALL: [Self; 17] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    const fn row(self) -> Row {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::BF16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2K => (10, "Q2_K", 256, 84),
            Self::Q3K => (11, "Q3_K", 256, 110),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
            Self::Q8K => (15, "Q8_K", 256, 292),
            Self::Iq4Nl => (20, "IQ4_NL", 32, 18),
            Self::Iq4Xs => (23, "IQ4_XS", 256, 136),
            Self::Mxfp4 => (39, "MXFP4", 32, 17),
        }
    }

    /// Finds the type that a file calls `number`.
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.row().0 == number)
    }

    /// Returns ggml's name.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns the values of a block.
    pub const fn block(self) -> usize {
        self.row().2
    }

    /// Returns the bytes of a block.
    pub const fn bytes(self) -> usize {
        self.row().3
    }
}

/// Returns ggml's name of a type that is not read.
pub(super) fn other_name(number: u32) -> String {
    const NAMES: [(u32, &str); 21] = [
        (9, "Q8_1"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (36, "IQ4_NL_4_4"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    let known = NAMES.into_iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("number {number}"), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.row().0), Some(kind));
        }
        assert_eq!((Kind::of(16), Kind::of(4)), (None, None));
        assert_eq!((other_name(19).as_str(), other_name(77).as_str()), ("IQ1_S", "number 77"));
    }
}
