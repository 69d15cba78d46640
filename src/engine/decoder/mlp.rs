//! Gated MLPs: the product of two linear layers goes through a third.

use mlx_rs::Array;

use super::linear::Linear;
use crate::engine::array::gated;
use crate::error::Result;
use crate::models::spec::{DecoderSpec, Role};
use crate::numerics::dtype::Dtype;

/// One matrix of a role, or of one of its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Matrix {
    pub(crate) role: Role,
    pub(crate) index: usize,
    /// Number of matrices of this role.
    pub(crate) count: usize,
}

impl From<Role> for Matrix {
    fn from(role: Role) -> Self {
        Self { role, index: 0, count: 1 }
    }
}

/// Gated MLPs: one, or one per expert.
#[derive(Debug, Clone)]
pub(crate) struct Gated {
    pub(crate) gate: Vec<Linear>,
    pub(crate) up: Vec<Linear>,
    pub(crate) down: Vec<Linear>,
}

impl Gated {
    /// Computes the output of an MLP without experts.
    pub(crate) fn forward(&self, x: &Array, observe: &mut dyn FnMut(Matrix, &Array)) -> Result<Array> {
        observe(Role::Gate.into(), x);
        let gate = self.gate[0].forward(x)?;
        let up = self.up[0].forward(x)?;
        let gated = gated(&gate, &up)?;
        observe(Role::Down.into(), &gated);
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
