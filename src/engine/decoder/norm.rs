//! RMS norms with weights.

use mlx_rs::Array;
use mlx_rs::fast::rms_norm;

use super::load::Loader;
use crate::engine::array::factor;
use crate::error::Result;
use crate::models::spec::NormSpec;

/// RMS norm and its weight.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    /// Factors on the normalized values.
    weight: Array,
    eps: f32,
    less_one: bool,
}

impl Norm {
    pub(crate) fn load(loader: &Loader<'_>, spec: &NormSpec) -> Result<Self> {
        let &NormSpec { eps, less_one, .. } = spec;
        let stored = loader.float(&spec.name())?;
        let mut norm = Self { weight: stored.clone(), eps, less_one };
        norm.set(stored)?;
        Ok(norm)
    }

    /// Loads the norm that a part may have.
    pub(crate) fn load_some(loader: &Loader<'_>, spec: Option<&NormSpec>) -> Result<Option<Self>> {
        spec.map(|spec| Self::load(loader, spec)).transpose()
    }

    /// Replaces the weight by one as it is stored.
    pub(crate) fn set(&mut self, stored: Array) -> Result<()> {
        self.weight = if self.less_one { stored.add(factor(1.0, &stored)?)? } else { stored };
        Ok(())
    }

    /// Normalizes x [.., size].
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        Ok(rms_norm(x, Some(&self.weight), self.eps)?)
    }
}
