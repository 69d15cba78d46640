//! Settings of a recipe for the work after bits are chosen.

use clap::ValueEnum;

/// Presets. Times and memory are those of MobileLLM-R1-950M's shape on two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quality {
    /// scale search, 16 sequences: 6 minutes, 2 GB
    Fast,
    /// GPTQ, 64 sequences: 14 minutes, 2 GB; what is done where something is measured and nothing else is said
    Balanced,
    /// GPTQ, 128 sequences, then --refine 2 and --distill 150: 4.5 hours, 4 GB
    Best,
}

/// Settings of the work that follows rounding, where the recipe has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The preset.
    pub quality: Option<Quality>,
    /// Steps of distillation at most.
    pub distill: Option<u32>,
    /// True if norms learn too.
    pub distill_norms: bool,
    /// Rounds of refinement at most.
    pub refine: Option<u32>,
}
