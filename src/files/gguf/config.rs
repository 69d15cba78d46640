//! Keys of config.json that several architectures have.

use serde_json::{Map, Value, json};

use super::gguf::Gguf;
use super::keys::{Keys, number};
use super::kind::Kind;
use super::rope;
use crate::error::{Error, Result};

/// Name of the embedding.
const EMBEDDING: &str = "token_embd.weight";

/// Starts a config with what all architectures have, under Llama's keys.
pub(super) fn shared(keys: &Keys<'_>, model_type: &str, class: &str) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    let mut put = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    put("architectures", json!([class]));
    put("model_type", model_type.into());
    put("hidden_size", keys.required_size("embedding_length")?.into());
    put("num_hidden_layers", keys.required_size("block_count")?.into());
    put("num_attention_heads", keys.heads()?.into());
    put("num_key_value_heads", keys.kv_heads()?.into());
    put("head_dim", head_dim(keys)?.into());
    if let Some(size) = keys.size("feed_forward_length")? {
        put("intermediate_size", size.into());
    }
    put("max_position_embeddings", keys.required_size("context_length")?.into());
    put("vocab_size", vocabulary(keys.gguf)?.into());
    put("tie_word_embeddings", (!has(keys.gguf, "output.weight")).into());
    for (ours, theirs) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = keys.gguf.size(&format!("tokenizer.ggml.{theirs}_token_id"))? {
            put(ours, id.into());
        }
    }
    Ok(config)
}

/// Adds the epsilon of norms, which have no bias, and RoPE over whole heads.
pub(super) fn with_rms_and_rope(
    keys: &Keys<'_>,
    mut config: Map<String, Value>,
) -> Result<Map<String, Value>> {
    config
        .insert("rms_norm_eps".to_owned(), number(keys.required_number("attention.layer_norm_rms_epsilon")?));
    whole_rope(keys, &mut config)?;
    Ok(config)
}

/// Adds RoPE over whole heads.
pub(super) fn whole_rope(keys: &Keys<'_>, config: &mut Map<String, Value>) -> Result<()> {
    let (dims, head_dim) = (keys.count("rope.dimension_count")?, head_dim(keys)?);
    if let Some(dims) = dims.filter(|dims| *dims != head_dim) {
        return Err(
            keys.error("rope.dimension_count", format!("is {dims}, expected {head_dim}, the size of a head"))
        );
    }
    rope::add(keys, config)
}

/// Returns the size of a head of queries and keys, which values must have too.
pub(super) fn head_dim(keys: &Keys<'_>) -> Result<usize> {
    let (width, heads) = (keys.required_size("embedding_length")?, keys.heads()?);
    let head_dim = keys.size("attention.key_length")?.unwrap_or(width / heads);
    match keys.size("attention.value_length")?.filter(|size| *size != head_dim) {
        Some(size) => {
            Err(keys.error("attention.value_length", format!("is {size}, expected {head_dim}, as for keys")))
        }
        None => Ok(head_dim),
    }
}

/// Returns the rows of the embedding.
fn vocabulary(gguf: &Gguf) -> Result<usize> {
    match gguf.tensor(EMBEDDING).map(|(_, place)| &place.shape[..]) {
        Some(&[rows, _]) => Ok(rows),
        Some(shape) => {
            Err(Error::tensor(gguf.path(), EMBEDDING, format!("shape {shape:?}, expected a matrix")))
        }
        None => Err(Error::tensor(gguf.path(), EMBEDDING, "missing")
            .hint("a model of text has it: this may be an adapter or a projector")),
    }
}

/// True if the model has the tensor called `name`.
pub(super) fn has(gguf: &Gguf, name: &str) -> bool {
    gguf.tensor(name).is_some()
}

/// Returns the name of the type that the model's weights are taken for: that of most values of matrices where it is a float, and
/// else float16, or bfloat16 where an architecture needs its range.
pub(super) fn dtype(gguf: &Gguf, needs_bfloat16: bool) -> &'static str {
    let places = gguf.shards().iter().flat_map(|shard| &shard.tensors).filter(|place| place.shape.len() > 1);
    let mut values: [(Kind, usize); 3] = [Kind::F32, Kind::BF16, Kind::F16].map(|kind| (kind, 0));
    let mut others = 0;
    for place in places {
        let count = place.shape.iter().product::<usize>();
        match values.iter_mut().find(|(kind, _)| *kind == place.kind) {
            Some((_, sum)) => *sum += count,
            None => others += count,
        }
    }
    let most = values.into_iter().max_by_key(|(_, sum)| *sum).filter(|(_, sum)| *sum > others);
    match most.map(|(kind, _)| kind) {
        Some(Kind::F32) => "float32",
        Some(Kind::BF16) => "bfloat16",
        _ if needs_bfloat16 => "bfloat16",
        _ => "float16",
    }
}
