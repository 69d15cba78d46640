//! Operations and values, counted from the shapes.

use super::estimate::Work;
use crate::models::spec::{DecoderSpec, TensorSpec};

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
        let width = self.spec.num_attention_heads * self.spec.head_dim;
        2.0 * weights + 4.0 * (self.length * width * self.spec.layers.len()) as f64
    }

    /// Returns the share of a layer that a token meets.
    fn used(&self, spec: &TensorSpec) -> f64 {
        match (spec.experts(), self.spec.experts) {
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
        let of = |sparse| self.inputs(sparse).iter().map(|i| i.tokens * i.columns * i.columns).sum::<f64>();
        self.spec.layers.iter().map(|layer| of(layer.sparse)).sum()
    }

    /// Returns the four inputs of a block.
    pub(crate) fn inputs(&self, sparse: bool) -> [Input; 4] {
        let DecoderSpec { hidden_size, intermediate_size, num_attention_heads, head_dim, .. } = self.spec;
        let one = |columns: usize| Input { columns: columns as f64, tokens: 1.0, matrices: 1.0 };
        let attention = [one(*hidden_size), one(num_attention_heads * head_dim)];
        let [gate, down] = match self.spec.experts.filter(|_| sparse) {
            None => [one(*hidden_size), one(*intermediate_size)],
            Some(experts) => [*hidden_size, experts.intermediate_size].map(|columns| Input {
                columns: columns as f64,
                tokens: experts.per_token as f64,
                matrices: experts.count as f64,
            }),
        };
        [attention[0], attention[1], gate, down]
    }

    /// Counts the operations of GPTQ: a factorization and a triangular product per matrix.
    pub(crate) fn feedback_flops(&self) -> f64 {
        let specs = self.manifest.iter().filter(|spec| spec.quantizable());
        let of = |spec: &TensorSpec| {
            let (rows, columns) = (spec.rows() as f64, spec.columns() as f64);
            columns * columns * (spec.experts().unwrap_or(1) as f64 * columns / 3.0 + rows)
        };
        specs.map(of).sum()
    }
}
