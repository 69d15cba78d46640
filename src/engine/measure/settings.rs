//! Settings of an analysis, and the expected costs of its steps.

use std::collections::BTreeSet;

use crate::choose::scores::Method;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::Technique;

/// Sequences, candidates and method of a measurement.
pub struct AnalysisSettings<'a> {
    /// Token ids, all of one length.
    pub sequences: &'a [Vec<u32>],
    /// Quantized candidates; those whose group does not divide a layer's rows are left out for that layer.
    pub candidates: &'a [Quant],
    /// Formula of the scores.
    pub method: Method,
    /// Rounding technique of the scored errors: the one that weights will be rounded with.
    pub technique: Technique,
    /// Dtype of scales and biases; weights are cast to it first.
    pub dtype: FloatType,
    /// Paths of layers that were measured before.
    pub skip: BTreeSet<String>,
    /// Seed of the sampled labels.
    pub seed: u64,
    /// Most bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// Relative costs of the steps.
    pub costs: StepCosts,
    /// Called with (work done, total work), in the units of `costs`.
    pub progress: &'a dyn Fn(u64, u64),
}

/// Relative costs of a measurement's steps, so that a progress bar moves evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCosts {
    /// Forward pass through a block.
    pub forward: u64,
    /// Backward pass through the head.
    pub head: u64,
    /// Backward pass through a block, with the scores of its candidates.
    pub backward: u64,
}

impl Default for StepCosts {
    fn default() -> Self {
        Self { forward: 1, head: 1, backward: 3 }
    }
}
