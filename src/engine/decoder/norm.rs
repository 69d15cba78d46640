//! Norms, with the parameters that they have.

use mlx_rs::Array;
use mlx_rs::fast::{layer_norm, rms_norm};
use mlx_rs::ops::stack;

use super::load::Loader;
use crate::engine::array::factor;
use crate::engine::fused::RmsNorm;
use crate::error::Result;
use crate::models::spec::{NormKind, NormParameter, NormSpec};

/// RMS norm or layer norm.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    kind: NormKind,
    /// Factors on the normalized values; rows of them where heads have their own.
    weight: Option<Array>,
    bias: Option<Array>,
    eps: f32,
    /// Number that the stored weight lacks.
    less: f32,
}

impl Norm {
    pub(crate) fn load(loader: &Loader<'_>, spec: &NormSpec) -> Result<Self> {
        let &NormSpec { kind, eps, less, .. } = spec;
        let mut norm = Self { kind, weight: None, bias: None, eps, less };
        for (parameter, name) in spec.names() {
            norm.set(parameter, loader.float(&name)?)?;
        }
        Ok(norm)
    }

    /// Loads the norm that a part may have.
    pub(crate) fn load_some(loader: &Loader<'_>, spec: Option<&NormSpec>) -> Result<Option<Self>> {
        spec.map(|spec| Self::load(loader, spec)).transpose()
    }

    /// Replaces a parameter by one as it is stored.
    pub(crate) fn set(&mut self, parameter: NormParameter, stored: Array) -> Result<()> {
        match parameter {
            NormParameter::Weight if self.less != 0.0 => {
                self.weight = Some(stored.add(factor(self.less, &stored)?)?);
            }
            NormParameter::Weight => self.weight = Some(stored),
            NormParameter::Bias => self.bias = Some(stored),
        }
        Ok(())
    }

    /// Returns an RMS norm with one weight as nodes know it; `None` for others.
    pub(crate) fn rms(&self) -> Option<RmsNorm<'_>> {
        let weight = self.weight.as_ref().filter(|weight| weight.ndim() == 1)?;
        (!self.kind.is_layer_norm()).then_some(RmsNorm { weight, eps: self.eps })
    }

    /// Normalizes x [.., size]; [.., heads, size] where heads have weights of their own.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let rows = self.weight.as_ref().filter(|weight| weight.ndim() == 2);
        let weight = if rows.is_some() { None } else { self.weight.as_ref() };
        let normed = if self.kind.is_layer_norm() {
            layer_norm(x, weight, self.bias.as_ref(), self.eps)?
        } else {
            rms_norm(x, weight, self.eps)?
        };
        rows.map_or_else(|| Ok(normed.clone()), |rows| Ok(normed.multiply(rows)?))
    }

    /// Normalizes heads x [.., heads, size], each by a norm of its own. The norms are alike but for their weights.
    pub(crate) fn forward_each(norms: &[Self], x: &Array) -> Result<Array> {
        let Some(first) = norms.first() else { return Ok(x.clone()) };
        let weights: Vec<&Array> = norms.iter().filter_map(|norm| norm.weight.as_ref()).collect();
        Self { weight: Some(stack(&weights, 0)?), ..first.clone() }.forward(x)
    }
}
