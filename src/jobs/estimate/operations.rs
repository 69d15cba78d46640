//! Operations and values, counted from the shapes.

use std::collections::BTreeMap;

use super::estimate::Work;
use crate::models::spec::{AttentionSpec, BlockSpec, LinearSpec, TensorSpec};
use crate::numerics::rounding::DESCENT_PASSES;

/// An input that some of a block's layers share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub(crate) columns: f64,
    /// Rows per token.
    pub(crate) tokens: f64,
    /// Matrices, each with an input of its own.
    pub(crate) matrices: f64,
}

impl Work<'_> {
    /// Counts the weights of all linear layers.
    pub(crate) fn linear(&self) -> f64 {
        self.matrices().map(|[rows, columns]| rows * columns).sum()
    }

    /// Returns rows and columns of all linear layers.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = [f64; 2]> {
        let specs = self.manifest.iter().filter(|spec| spec.quantizable());
        specs.map(|spec| [spec.rows() as f64, spec.columns() as f64])
    }

    /// Counts the operations of all blocks for a token.
    pub(crate) fn block_flops(&self) -> f64 {
        let in_blocks = self.manifest.iter().filter(|spec| spec.layer.is_some() && spec.quantizable());
        let weights: f64 = in_blocks.map(|spec| spec.len() as f64 * self.used(spec)).sum();
        let widths = |attention: &AttentionSpec| attention.heads * (attention.head_dim + attention.value_dim);
        let width: usize = self.spec.attentions().map(widths).sum();
        2.0 * weights + 2.0 * (self.length * width) as f64
    }

    /// Returns the share of a layer that a token meets.
    fn used(&self, spec: &TensorSpec) -> f64 {
        match (spec.experts(), self.spec.experts()) {
            (Some(_), Some(experts)) => experts.per_token as f64 / experts.count as f64,
            _ => 1.0,
        }
    }

    /// Counts the operations of the head for a token.
    pub(crate) fn head_flops(&self) -> f64 {
        2.0 * (self.spec.hidden_size * self.spec.vocab_size) as f64
    }

    /// Counts the operations of E[x x^T] for a token, half of which is the other half's mirror image: q, k and v share an
    /// input, and gate and up.
    pub(crate) fn moment_flops(&self) -> f64 {
        let inputs = self.spec.blocks.iter().flat_map(inputs);
        inputs.map(|input| input.tokens * input.columns * input.columns).sum()
    }

    /// Counts the operations of GPTQ: a factorization, a triangular product, and products of descent per matrix.
    pub(crate) fn feedback_flops(&self) -> f64 {
        let specs = self.manifest.iter().filter(|spec| spec.quantizable());
        let products = 1.0 + 2.0 * (1.0 + DESCENT_PASSES as f64);
        let of = |spec: &TensorSpec| {
            let (rows, columns) = (spec.rows() as f64, spec.columns() as f64);
            columns * columns * (spec.experts().unwrap_or(1) as f64 * columns / 3.0 + rows * products)
        };
        specs.map(of).sum()
    }
}

/// Returns the inputs that the linear layers of a block share.
pub(crate) fn inputs(block: &BlockSpec) -> Vec<Input> {
    let mut inputs = BTreeMap::new();
    for LinearSpec { tap, columns, experts: matrices, .. } in block.linears() {
        let routed = matrices.and(block.mlp.part.experts);
        let tokens = routed.map_or(1, |experts| experts.per_token) as f64;
        let input = Input { columns: columns as f64, tokens, matrices: matrices.unwrap_or(1) as f64 };
        inputs.entry(tap).or_insert(input);
    }
    inputs.into_values().collect()
}
