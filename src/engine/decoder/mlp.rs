//! MLPs: one or two linear layers, what is made of their outputs, and another linear layer.

use mlx_rs::Array;

use super::experts::Shared;
use super::linear::Linear;
use super::load::Loader;
use crate::engine::activations::{clamped_silu, clamped_swish, gelu, gelu_tanh, relu2, silu, xielu};
use crate::engine::array::{gated, slice};
use crate::engine::fused::{self, Around, Layer, MlpLayers};
use crate::error::{Error, Result};
use crate::models::spec::{Activation, DecoderSpec, MlpSpec, Projections, Role, Tap};
use crate::numerics::dtype::Dtype;

/// Input of some linear layers, or of those of one expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Input {
    pub(crate) tap: Tap,
    /// Number of the expert.
    pub(crate) index: usize,
    /// Number of experts; 1 without.
    pub(crate) count: usize,
}

impl From<Tap> for Input {
    fn from(tap: Tap) -> Self {
        Self { tap, index: 0, count: 1 }
    }
}

/// MLPs: one, or one per expert.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    /// Gate, or gate and up in one; empty without a gate.
    pub(crate) gate: Vec<Linear>,
    /// Empty where it is part of `gate`.
    pub(crate) up: Vec<Linear>,
    pub(crate) down: Vec<Linear>,
    projections: Projections,
    activation: Activation,
    /// Learned numbers of the activation.
    parameters: Vec<Array>,
    /// Experts beside these, which every token goes through.
    pub(crate) shared: Option<Box<Shared>>,
}

impl Mlp {
    pub(crate) fn load(loader: &Loader<'_>, spec: &MlpSpec) -> Result<Self> {
        let linears = |role| loader.linears(&spec.projection(role));
        let (gate, up) = match spec.projections {
            _ if !spec.gated => (Vec::new(), linears(Role::Up)?),
            Projections::Apart => (linears(Role::Gate)?, linears(Role::Up)?),
            _ => (linears(Role::GateUp)?, Vec::new()),
        };
        let parameters = spec.activation_names().map(|name| loader.float(&name)).collect::<Result<_>>()?;
        let &MlpSpec { activation, projections, .. } = spec;
        let shared = Shared::load(loader, spec)?.map(Box::new);
        Ok(Self { gate, up, down: linears(Role::Down)?, projections, activation, parameters, shared })
    }

    /// Computes the input of down from the outputs of gate and up.
    pub(crate) fn inner(&self, gate: &Array, up: &Array) -> Result<Array> {
        match self.activation {
            Activation::Silu => gated(gate, up),
            Activation::ClampedSwish { alpha, limit } => clamped_swish(gate, up, alpha, limit),
            Activation::ClampedSilu { limit } => clamped_silu(gate, up, limit),
            _ => Ok(self.activated(gate)?.multiply(up)?),
        }
    }

    fn activated(&self, x: &Array) -> Result<Array> {
        match self.activation {
            Activation::Silu => silu(x),
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_tanh(x),
            Activation::Relu2 => relu2(x),
            Activation::Xielu => xielu(x, &self.parameters),
            Activation::ClampedSwish { .. } | Activation::ClampedSilu { .. } => {
                Err(Error::engine("an activation of gate and up in an MLP without gate"))
            }
        }
    }

    /// Returns the linear layers: one of each kind, or one per expert; then those of shared experts.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut [Linear]> {
        let mut all: Vec<&mut [Linear]> = vec![&mut self.gate, &mut self.up, &mut self.down];
        all.extend(self.shared.iter_mut().flat_map(|shared| shared.mlp.linears_mut()));
        all
    }

    /// Computes the output of an MLP without experts, plus `addend` if there is one. `observe` sees the inputs of the
    /// linear layers.
    pub(crate) fn forward_plus(
        &self,
        context: Context<'_>,
        x: &Array,
        addend: Option<&Array>,
        observe: &mut dyn FnMut(Input, &Array),
    ) -> Result<Array> {
        if let Some(first) = self.gate.first().or(self.up.first()) {
            observe(first.tap.into(), x);
        }
        let inner = self.inner_of(0, x)?;
        observe(self.down[0].tap.into(), &inner);
        self.down[0].forward_plus(context, &inner, addend)
    }

    /// Computes the output of the MLP, or of an expert's, as one node; `None` where its layers or its activation are of other
    /// kinds than that node knows.
    pub(crate) fn forward_fused(&self, expert: usize, around: &Around<'_>) -> Option<Array> {
        if self.projections == Projections::UpFirst {
            return None;
        }
        let first = self.gate.get(expert).into_iter().chain(self.up.get(expert));
        let first: Vec<Layer<'_>> = first.map(Linear::layer).collect();
        let (activation, gated) = (self.activation, !self.gate.is_empty());
        fused::mlp(around, &MlpLayers { first: &first, activation, gated, down: self.down[expert].layer() })
    }

    /// Computes the input of down in the MLP, or in that of an expert.
    pub(super) fn inner_of(&self, expert: usize, x: &Array) -> Result<Array> {
        let (gate, up) = match (self.gate.get(expert), self.up.get(expert)) {
            (Some(gate), Some(up)) => (gate, up),
            (None, Some(up)) => return self.activated(&up.forward(x)?),
            (Some(both), None) => return self.inner_of_both(&both.forward(x)?),
            (None, None) => return Err(Error::engine("an MLP without gate and up")),
        };
        self.inner(&gate.forward(x)?, &up.forward(x)?)
    }

    /// Computes the input of down from the output [.., tokens, 2 * width] of gate and up in one matrix.
    fn inner_of_both(&self, both: &Array) -> Result<Array> {
        let (last, width) = (both.ndim() - 1, both.dim(-1) as usize / 2);
        let (first, second) = (slice(both, last, 0, width)?, slice(both, last, width, 2 * width)?);
        if self.projections == Projections::UpFirst {
            return self.inner(&second, &first);
        }
        self.inner(&first, &second)
    }
}

/// Architecture, compute dtype and device, as every block needs them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) dtype: Dtype,
    pub(crate) on_gpu: bool,
    pub(crate) nodes: Nodes,
}

/// How operations become nodes of MLX's graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// One by one, with gradients.
    Single,
    /// Several as one where there is such a node, for passes without gradients whose inner values nobody observes.
    Fused,
}
