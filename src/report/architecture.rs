//! One-line description of a model's architecture.

use crate::models::inventory::Inventory;
use crate::models::source::SourceModel;
use crate::words::count;

/// Describes a model's architecture and sizes in one line.
pub fn architecture(source: &SourceModel, inventory: &Inventory) -> String {
    let spec = source.spec();
    let experts = spec.experts().map_or_else(String::new, |experts| {
        format!(", {} ({} for a token)", count(experts.count, "expert"), experts.per_token)
    });
    let attention = spec.attentions().next().map(|attention| (attention.heads, attention.kv_heads));
    let (heads, kv_heads) = attention.unwrap_or_default();
    format!(
        "{}: {} parameters, {}, hidden size {}, {} ({} for keys and values){}, vocabulary {}",
        source.config().model_type(),
        inventory.parameters,
        count(spec.blocks.len(), "block"),
        spec.hidden_size,
        count(heads, "head"),
        kv_heads,
        experts,
        spec.vocab_size,
    )
}
