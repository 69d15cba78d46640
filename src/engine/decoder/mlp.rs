//! Gated MLPs: the product of two linear layers goes through a third.

use mlx_rs::Array;

use super::linear::Linear;
use crate::engine::array::gated;
use crate::engine::fused::{Finish, products};
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
    /// Computes the output of an MLP without experts, plus `stream`.
    pub(crate) fn forward_plus(
        &self,
        context: Context<'_>,
        x: &Array,
        stream: &Array,
        observe: &mut dyn FnMut(Matrix, &Array),
    ) -> Result<Array> {
        observe(Role::Gate.into(), x);
        let gated = self.gated(context, x)?;
        observe(Role::Down.into(), &gated);
        self.down[0].forward_plus(context, &gated, stream)
    }

    fn gated(&self, context: Context<'_>, x: &Array) -> Result<Array> {
        let (gate, up) = (&self.gate[0], &self.up[0]);
        if context.nodes == Nodes::Fused
            && let Some(gated) = products(x, &[gate.layer(), up.layer()], Finish::Gated)
        {
            return Ok(gated);
        }
        gated(&gate.forward(x)?, &up.forward(x)?)
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
    /// Several as one where there is such a node, for passes without gradients.
    Fused,
}
