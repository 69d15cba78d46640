//! An MLP of experts: a router gives each token to some of them; others may be shared by all tokens.
//!
//! Each expert gets its tokens as one product, and no other expert's weights are touched. MLX's gathered products would compute
//! one token after the other on the CPU.

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, sigmoid, softmax_axis};

use super::linear::Linear;
use super::load::Loader;
use super::mlp::{Context, Input, Mlp, Nodes};
use super::router::{Choice, Router};
use crate::engine::array::slice;
use crate::engine::fused::Around;
use crate::error::Result;
use crate::models::spec::{MlpSpec, SharedGate};

/// Experts that every token goes through.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(super) mlp: Mlp,
    pub(super) gate: Option<(SharedGate, Linear)>,
}

impl Router {
    /// Computes the weighted sum of the chosen experts' outputs for x [.., tokens, hidden]. `observe` sees the input of
    /// each expert's layers, unless its MLP is one node.
    pub(crate) fn forward(
        &self,
        context: Context<'_>,
        mlp: &Mlp,
        x: &Array,
        (scores, choice): (&Array, &Choice),
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        let (count, hidden_size) = (self.experts.count, x.dim(-1));
        let tokens = x.reshape(&[-1, hidden_size])?;
        let weights = self.weights(scores, choice)?.as_dtype(x.dtype())?;
        let of_input = self.experts.weighs_input.then(|| weights.reshape(&[-1, 1])).transpose()?;
        let mut outputs = Vec::new();
        for expert in (0..count).filter(|&expert| choice.names(expert)) {
            let mut own = tokens.take_axis(choice.tokens(expert), 0)?;
            if let Some(weights) = &of_input {
                own = own.multiply(weights.take_axis(choice.weights_of(expert), 0)?)?;
            }
            if context.nodes == Nodes::Fused
                && let Some(output) = mlp.forward_fused(expert, &Around { x: &own, norm: None, addend: None })
            {
                outputs.push(output);
                continue;
            }
            let input = |linears: &[Linear]| Input { tap: linears[expert].tap, index: expert, count };
            let first = if mlp.gate.is_empty() { &mlp.up } else { &mlp.gate };
            observe(input(first), &own);
            let inner = mlp.inner_of(expert, &own)?;
            observe(input(&mlp.down), &inner);
            outputs.push(mlp.down[expert].forward(&inner)?);
        }
        let outputs = concatenate(&outputs, 0)?.take_axis(choice.output_rows(), 0)?;
        let outputs = outputs.reshape(&[-1, choice.per_token(), hidden_size])?;
        let outputs = if of_input.is_some() { outputs } else { outputs.multiply(weights.expand_dims(2)?)? };
        Ok(outputs.sum_axis(1, false)?.reshape(x.shape())?)
    }
}

impl Shared {
    /// Loads the shared experts of an MLP; `None` where it has none.
    pub(crate) fn load(loader: &Loader<'_>, spec: &MlpSpec) -> Result<Option<Self>> {
        let Some(shared) = &spec.shared else { return Ok(None) };
        let gate = match (shared.gate, spec.shared_gate()) {
            (Some(gate), Some(linear)) => Some((gate, loader.linear(&linear)?)),
            _ => None,
        };
        Ok(Some(Self { mlp: Mlp::load(loader, &shared.mlp)?, gate }))
    }

    /// Computes the sum of the chosen experts' output `routed` and that of the shared ones for x [batch, tokens, hidden].
    pub(crate) fn add_to(
        &self,
        context: Context<'_>,
        x: &Array,
        routed: &Array,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        let Some((gate, linear)) = &self.gate else {
            return self.mlp.forward_plus(context, x, Some(routed), observe);
        };
        let output = self.mlp.forward_plus(context, x, None, observe)?;
        let products = linear.forward(x)?;
        Ok(match gate {
            SharedGate::Sigmoid => routed.add(output.multiply(sigmoid(&products)?)?)?,
            SharedGate::Softmax => {
                let shares = softmax_axis(&products, -1, true)?;
                let (first, second) = (slice(&shares, 2, 0, 1)?, slice(&shares, 2, 1, 2)?);
                routed.multiply(first)?.add(output.multiply(second)?)?
            }
        })
    }
}
