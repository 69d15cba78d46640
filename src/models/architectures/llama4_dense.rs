//! Widths of MobileLLM-R1's MLP, of which config and weights say different things; `notes` says what is done.

use super::names::TensorShapes;
use crate::error::{Error, Result};
use crate::models::config::ModelConfig;
use crate::models::spec::DecoderSpec;

/// Sets the width of the MLP. `intermediate_size` is the experts' width and `intermediate_size_mlp` the dense MLP's, which
/// hints at a dual MLP that MobileLLM-R1 does not have: the tensors decide.
pub(super) fn set_intermediate_size(
    config: &ModelConfig,
    shapes: &TensorShapes,
    spec: &mut DecoderSpec,
) -> Result<()> {
    if let Some(name) = shapes
        .keys()
        .find(|n| [".experts.", ".router.", ".shared_expert."].iter().any(|part| n.contains(part)))
    {
        return Err(Error::tensor(config.path(), name, "mixture-of-experts blocks are not supported")
            .hint("only dense llama4_text models such as MobileLLM-R1 can be used"));
    }
    let other = config.require_size("intermediate_size")?;
    let claimed = config.size("intermediate_size_mlp")?;
    let size =
        match shapes.get("model.layers.0.feed_forward.gate_proj.weight").and_then(|shape| shape.first()) {
            Some(&rows) => rows,
            None => claimed.unwrap_or(other),
        };
    if claimed.is_some() && claimed != Some(size) {
        spec.notes.push(format!(
            "the weights' MLP is {size} wide, the config's intermediate_size_mlp says {}: the weights decide",
            claimed.unwrap_or_default()
        ));
    } else if claimed.is_some_and(|claimed| claimed != other) {
        spec.notes.push(format!(
            "the config hints at a dual MLP ({other} and {size}); the weights have one, {size} wide"
        ));
    }
    spec.mlps_mut().for_each(|mlp| mlp.intermediate_size = size);
    spec.resolved.push(("intermediate_size_mlp", size.into()));
    Ok(())
}
