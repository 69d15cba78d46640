//! Factors of Phi's longrope on rotated queries and keys.

use super::rope::{Rope, RopeScaling};
use crate::error::Result;
use crate::models::config::ModelConfig;

impl Rope {
    /// Takes the factor on rotated queries and keys from `short_mscale`, which must be that of long texts too.
    pub(crate) fn with_mscales(mut self, config: &ModelConfig) -> Result<Self> {
        let group = Self::group(config)?;
        let RopeScaling::LongRope { attention_factor, .. } = &mut self.scaling else { return Ok(self) };
        let scale = |of: &str| config.required(&format!("{group}.{of}_mscale"), ModelConfig::positive);
        let (short, long) = (scale("short")?, scale("long")?);
        if (short - long).abs() > f64::EPSILON {
            let message = format!("{long} differs from short_mscale {short}, which is not supported");
            return Err(config.error(&format!("{group}.long_mscale"), message));
        }
        *attention_factor = short;
        Ok(self)
    }
}
