//! Settings of a recipe for the work after bits are chosen.

use std::fmt;

use crate::numerics::quant::{Mode, Quant};

/// Presets. Times and memory are those of MobileLLM-R1-950M's shape on two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// Scale search, 16 sequences: 6 minutes, 2 GB.
    Fast,
    /// GPTQ, 64 sequences: 14 minutes, 2 GB.
    Balanced,
    /// GPTQ, 128 sequences, 2 rounds of refinement and 150 steps of distillation: 4.5 hours, 4 GB.
    Best,
}

impl Quality {
    /// All presets, from the fastest.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Balanced, Self::Best];

    /// Returns the preset's name in recipes and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Best => "best",
        }
    }

    /// Returns the preset called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quality| quality.name() == name)
    }
}

/// Parts of quantized layers that distillation tunes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Learn {
    /// Scales and biases; codes stay.
    #[default]
    Scales,
    /// Codes, scales and biases.
    Codes,
}

impl Learn {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Scales, Self::Codes];

    /// Returns the name in recipes, on the command line and in journals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scales => "scales",
            Self::Codes => "codes",
        }
    }

    /// True if a layer of this setting has something to learn: affine scales and biases, or codes of any mode.
    pub fn applies_to(self, quant: Quant) -> bool {
        quant.mode == Mode::Affine || self == Self::Codes
    }

    /// Returns the parts called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|learn| learn.name() == name)
    }
}

impl fmt::Display for Learn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Settings of the work that follows rounding, where the recipe has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The preset.
    pub quality: Option<Quality>,
    /// Steps of distillation at most.
    pub distill: Option<u32>,
    /// Parts of the layers that distillation tunes.
    pub learn: Option<Learn>,
    /// True if norms learn too.
    pub distill_norms: bool,
    /// Rounds of refinement at most.
    pub refine: Option<u32>,
}
