//! Layers that came in another tool's form: what is said about them, and what their tools added.

use std::collections::BTreeMap;

use crate::formats::checkpoint::Checkpoint;
use crate::formats::entry::Incoming;
use crate::models::spec::Manifest;
use crate::numerics::quant::Quant;
use crate::words::count;

/// Leaves out biases of zero that the architecture does not have: some tools give one to every layer that they quantize. Returns a
/// sentence about them.
pub(super) fn drop_zero_biases(
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    stored: &mut BTreeMap<String, String>,
) -> Option<String> {
    let is_idle = |name: &&String| {
        let Some(layer) = name.strip_suffix(".bias").filter(|_| manifest.get(name).is_none()) else {
            return false;
        };
        let find = |name: &str| stored.get(name).and_then(|name| checkpoint.get(name));
        let came_quantized = find(&format!("{layer}.weight")).is_some_and(|weight| weight.incoming.is_some());
        // Zero in every float type, but for its sign.
        came_quantized && find(name).is_some_and(|bias| bias.bytes().iter().all(|byte| *byte == 0))
    };
    let idle: Vec<String> = stored.keys().filter(is_idle).cloned().collect();
    for name in &idle {
        stored.remove(name);
    }
    let first = idle.first()?;
    Some(format!(
        "{} of zero left out, `{first}` first: the architecture has none",
        count(idle.len(), "bias vector")
    ))
}

/// Returns a sentence about the layers in each form of another tool: taken without loss, or decoded.
pub(super) fn notes(
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    stored: &BTreeMap<String, String>,
) -> Vec<String> {
    sentences(manifest, checkpoint, stored, |quant| format!("taken as {quant}, lossless"))
}

/// Returns `notes` with the sentences of [`notes`](self::notes) as they are where every layer is decoded.
pub(super) fn where_decoded(
    notes: &[String],
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    stored: &BTreeMap<String, String>,
) -> Vec<String> {
    let taken = self::notes(manifest, checkpoint, stored);
    let decoded = sentences(manifest, checkpoint, stored, |quant| {
        format!("decoded, though {quant} has the same numbers")
    });
    let replace = |note: &String| {
        let sentence = taken.iter().zip(&decoded).find(|(taken, _)| *taken == note);
        sentence.map_or(note, |(_, decoded)| decoded).clone()
    };
    notes.iter().map(replace).collect()
}

/// Returns a sentence about the layers in each form of another tool. `fate` says what becomes of those that MLX has a setting
/// for.
fn sentences(
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    stored: &BTreeMap<String, String>,
    fate: impl Fn(Quant) -> String,
) -> Vec<String> {
    let mut layers: BTreeMap<(&str, Option<Quant>), usize> = BTreeMap::new();
    for spec in manifest.iter().filter(|spec| spec.path().is_some()) {
        let tensor = stored.get(&spec.name).and_then(|name| checkpoint.get(name));
        if let Some(Incoming { form, quant, .. }) = tensor.and_then(|tensor| tensor.incoming) {
            *layers.entry((form, quant)).or_default() += 1;
        }
    }
    let sentence = |((form, quant), number): ((&str, Option<Quant>), usize)| {
        let layers = count(number, "layer");
        match quant {
            Some(quant) => format!("{layers} in the form {form}: {}", fate(quant)),
            None => format!("{layers} in the form {form}, which MLX lacks: decoded"),
        }
    };
    layers.into_iter().map(sentence).collect()
}
