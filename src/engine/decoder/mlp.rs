//! Gated MLPs: the product of two linear layers goes through a third.

use mlx_rs::Array;

use super::linear::Linear;
use super::load::Loader;
use crate::engine::array::{gated, gelu_tanh, slice};
use crate::error::Result;
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

/// Gated MLPs: one, or one per expert.
#[derive(Debug, Clone)]
pub(crate) struct Gated {
    /// Gate, or gate and up in one.
    pub(crate) gate: Vec<Linear>,
    /// Empty where it is part of `gate`.
    pub(crate) up: Vec<Linear>,
    pub(crate) down: Vec<Linear>,
    activation: Activation,
}

impl Gated {
    pub(crate) fn load(loader: &Loader<'_>, spec: &MlpSpec) -> Result<Self> {
        let linears = |role| loader.linears(&spec.projection(role));
        let (gate, up) = match spec.projections {
            Projections::Apart => (linears(Role::Gate)?, linears(Role::Up)?),
            Projections::Fused => (linears(Role::GateUp)?, Vec::new()),
        };
        Ok(Self { activation: spec.activation, gate, up, down: linears(Role::Down)? })
    }

    /// Computes the input of down from the outputs of gate and up.
    pub(crate) fn inner(&self, gate: &Array, up: &Array) -> Result<Array> {
        match self.activation {
            Activation::Silu => gated(gate, up),
            Activation::GeluTanh => Ok(gelu_tanh(gate)?.multiply(up)?),
        }
    }

    /// Returns the linear layers: one of each kind, or one per expert.
    pub(crate) fn linears_mut(&mut self) -> [&mut [Linear]; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }

    /// Computes the output of an MLP without experts.
    pub(crate) fn forward(&self, x: &Array, observe: &mut dyn FnMut(Input, &Array)) -> Result<Array> {
        observe(self.gate[0].tap.into(), x);
        let gate = self.gate[0].forward(x)?;
        let gated = match self.up.first() {
            Some(up) => self.inner(&gate, &up.forward(x)?)?,
            None => {
                let width = gate.dim(2) as usize / 2;
                self.inner(&slice(&gate, 2, 0, width)?, &slice(&gate, 2, width, 2 * width)?)?
            }
        };
        observe(self.down[0].tap.into(), &gated);
        self.down[0].forward(&gated)
    }
}

/// Architecture, compute dtype and device, as every block needs them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) dtype: Dtype,
    pub(crate) on_gpu: bool,
}
