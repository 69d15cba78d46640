//! One-line description of a model's architecture.

use crate::models::inventory::Inventory;
use crate::models::source::SourceModel;
use crate::words::count;

/// Describes a model's architecture and sizes in one line.
pub fn architecture(source: &SourceModel, inventory: &Inventory) -> String {
    let spec = source.spec();
    let experts = spec.experts.map_or_else(String::new, |experts| {
        format!(", {} ({} for a token)", count(experts.count, "expert"), experts.per_token)
    });
    format!(
        "{}: {} parameters, {}, hidden size {}, {} ({} for keys and values){}, vocabulary {}",
        source.config().model_type(),
        inventory.parameters,
        count(spec.layers.len(), "block"),
        spec.hidden_size,
        count(spec.num_attention_heads, "head"),
        spec.num_key_value_heads,
        experts,
        spec.vocab_size,
    )
}
