//! Tensors of a checkpoint that the decoder does not have: copies of the embedding, and what lies beside the decoder.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::models::architectures::Architecture;
use crate::models::names::{Rename, rename_common};
use crate::models::spec::DecoderSpec;
use crate::words::count;

/// Returns a sentence for the user about tensors that the architecture's own rule drops, other than buffers of RoPE.
pub(super) fn left_out(row: &Architecture, checkpoint: &Checkpoint) -> Option<String> {
    let is_left_out = |name: &&str| (row.rename)(name) == Rename::Drop && rename_common(name) != Rename::Drop;
    let names: Vec<&str> = checkpoint.iter().map(|(name, _)| name).filter(is_left_out).collect();
    let first = names.first()?;
    let tensors = count(names.len(), "tensor");
    Some(format!("{tensors} left out, as mlx-lm does, `{first}` first: no part of the decoder"))
}

/// A tied head that is stored all the same is a copy of the embedding: left out, and its name in the checkpoint returned.
/// If it differs ([`SourceModel::verify`] looks at the values), the config is wrong.
pub(super) fn drop_tied_head(
    spec: &mut DecoderSpec,
    checkpoint: &Checkpoint,
    stored: &mut BTreeMap<String, String>,
) -> Result<Option<String>> {
    let head = format!("{}.weight", spec.head.path);
    let Some(original) = stored.get(&head).filter(|_| spec.head.tied).cloned() else {
        return Ok(None);
    };
    let kind = |name: &str| checkpoint.get(name).map(|tensor| (tensor.dtype, tensor.shape));
    let embedding = format!("{}.weight", spec.embed.path);
    if kind(&original) != stored.get(&embedding).and_then(|name| kind(name)) {
        return Err(not_tied(spec, checkpoint, &original));
    }
    for part in ["weight", "scales", "biases"] {
        stored.remove(&format!("{}.{part}", spec.head.path));
    }
    spec.notes.push("the embedding is the head: the one that is stored is left out".to_owned());
    Ok(Some(original))
}

/// Leaves out what the decoder lists as tensors beside it.
pub(super) fn drop_extra(spec: &mut DecoderSpec, stored: &mut BTreeMap<String, String>) {
    let left_out: Vec<String> =
        stored.extract_if(.., |name, _| spec.leaves_out(name)).map(|(_, original)| original).collect();
    if let Some(first) = left_out.first() {
        let tensors = count(left_out.len(), "tensor");
        spec.notes
            .push(format!("{tensors} left out, as mlx-lm does, `{first}` first: no part of the decoder"));
    }
}

pub(super) fn not_tied(spec: &DecoderSpec, checkpoint: &Checkpoint, head: &str) -> Error {
    Error::tensor(checkpoint.path(), head, "differs from the embedding it is said to be tied to")
        .hint(spec.head.untie_hint())
}
