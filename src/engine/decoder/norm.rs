//! RMS norms with weights.

use mlx_rs::Array;
use mlx_rs::fast::rms_norm;

use super::load::Loader;
use crate::error::Result;
use crate::models::spec::NormSpec;

/// RMS norm and its weight.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    weight: Array,
    eps: f32,
}

impl Norm {
    pub(crate) fn load(loader: &Loader<'_>, spec: &NormSpec) -> Result<Self> {
        Ok(Self { weight: loader.float(&spec.name())?, eps: spec.eps })
    }

    /// Replaces the weight by one as it is stored.
    pub(crate) fn set(&mut self, stored: Array) {
        self.weight = stored;
    }

    /// Normalizes x [.., size].
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        Ok(rms_norm(x, Some(&self.weight), self.eps)?)
    }
}
