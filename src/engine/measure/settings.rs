//! Settings of an analysis, and what its steps are expected to cost.

use std::collections::BTreeSet;

use crate::choose::scores::Method;
use crate::numerics::affine::FloatType;
use crate::numerics::quant::Quant;
use crate::numerics::rounding::Technique;

/// What to measure.
pub struct AnalysisSettings<'a> {
    /// Token ids, all of one length.
    pub sequences: &'a [Vec<u32>],
    /// Quantized candidates; those whose group does not divide a layer's rows are left out for that layer.
    pub candidates: &'a [Quant],
    /// How.
    pub method: Method,
    /// How weights will be rounded: the errors that are scored.
    pub technique: Technique,
    /// Dtype of scales and biases, which the weights are cast to first.
    pub dtype: FloatType,
    /// Paths of layers that were measured before.
    pub skip: BTreeSet<String>,
    /// Seed of the labels.
    pub seed: u64,
    /// Bytes of hidden states in memory; more go to a temporary file.
    pub memory: u64,
    /// What the steps cost beside each other.
    pub costs: StepCosts,
    /// Called with (work done, work in all), in the units of `costs`.
    pub progress: &'a dyn Fn(u64, u64),
}

/// What the steps of a measurement cost beside each other, so that a bar moves evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCosts {
    /// A block forward.
    pub forward: u64,
    /// The head.
    pub head: u64,
    /// A block back, with the scores of its candidates.
    pub backward: u64,
}

impl Default for StepCosts {
    fn default() -> Self {
        Self { forward: 1, head: 1, backward: 3 }
    }
}
