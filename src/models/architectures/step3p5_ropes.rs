//! Rotations of Step 3.5, whose keys are lists of a number for each block.

use serde_json::Value;

use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::{Rope, RopeScaling};

/// Reads the rotation of each block: base and rotated part by block, and a scaling of full attention.
pub(super) fn ropes(config: &ModelConfig, slides: &[bool]) -> Result<Vec<Rope>> {
    let count = slides.len();
    let is_list = config.get("rope_theta").is_some_and(Value::is_array);
    let thetas = if is_list { config.numbers_of_layers("rope_theta", count)? } else { None };
    let base = if is_list { config.clone().with_value("rope_theta", Value::Null) } else { config.clone() };
    let base = Rope::from_config(&base)?;
    let shares = config.numbers_of_layers("partial_rotary_factors", count)?;
    let rope = |block: usize| {
        let share = shares.as_ref().map_or(1.0, |shares| shares[block]);
        let scaling = if slides[block] { RopeScaling::Default } else { base.scaling.clone() };
        let theta = thetas.as_ref().map_or(base.theta, |thetas| thetas[block]);
        Rope { theta, scaling, ..base.clone() }.with_share(config, "partial_rotary_factors", share)
    };
    (0..count).map(rope).collect()
}
